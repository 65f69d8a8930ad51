"""Packages of the distribution; everything else about it stands in pyproject.toml.

The configuration files and the contracts live at the root of the repository, where a reader looks for them,
and are shipped inside packages, so that `importlib.resources.files("services.config")` and
`files("trade2026.proto")` find them in an installed wheel and in an editable install alike.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(
            include=["trade2026", "trade2026.*", "services", "services.*", "gateway_http", "gateway_http.*"]
        ),
        "services.config",
        "trade2026.proto",
    ],
    package_dir={"services.config": "config", "trade2026.proto": "proto"},
    package_data={
        "": ["py.typed", "*.lua", "*.pyi", "*.csv"],
        "services.config": ["backend/*/config.yaml"],
        "trade2026.proto": ["trade2026/*/*/*.proto"],
    },
)
