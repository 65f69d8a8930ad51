"""`python -m services.risk`"""

from services.risk.settings import RiskSettings
from services.runtime.service import ServiceDefinition
from services.runtime.supervisor import main

if __name__ == "__main__":
    main(ServiceDefinition(module="risk", settings=RiskSettings, run="services.risk.bootstrap:run"))
