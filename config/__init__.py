"""Default configuration of each service, shipped as the package `services.config`."""
