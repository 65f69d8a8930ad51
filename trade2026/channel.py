"""Connections to gRPC servers: encrypted when there is a PEM file of those who may vouch for the server.

The server's own certificate then has to be of the host that is called. Both functions raise `OSError` when
the file cannot be read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc


def open_channel(
    target: str, options: Sequence[tuple[str, Any]] = (), authorities: str | Path = ""
) -> grpc.aio.Channel:
    """A connection to `host:port` for coroutines."""
    if not authorities:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, _credentials(authorities), options=options)


def open_blocking_channel(target: str, authorities: str | Path = "") -> grpc.Channel:
    """A connection to `host:port` whose calls block."""
    if not authorities:
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, _credentials(authorities))


def _credentials(authorities: str | Path) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(Path(authorities).read_bytes())
