"""`python -m services.oms`"""

from services.oms.settings import OmsSettings
from services.runtime.service import ServiceDefinition
from services.runtime.supervisor import main

if __name__ == "__main__":
    main(ServiceDefinition(module="oms", settings=OmsSettings, run="services.oms.bootstrap:run"))
