"""`python -m services.market_data`"""

from services.market_data.settings import MarketDataConfig
from services.runtime.service import ServiceDefinition
from services.runtime.supervisor import main

if __name__ == "__main__":
    main(ServiceDefinition("market_data", MarketDataConfig, "services.market_data.bootstrap:run"))
