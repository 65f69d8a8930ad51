"""`python -m services.live_gateway`: the paper venue."""

from services.live_gateway.settings import GatewaySettings
from services.runtime.service import ServiceDefinition
from services.runtime.supervisor import main

if __name__ == "__main__":
    main(
        ServiceDefinition(
            module="live_gateway", settings=GatewaySettings, run="services.live_gateway.bootstrap:run"
        )
    )
