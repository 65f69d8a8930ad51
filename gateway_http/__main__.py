"""The gateway alone, in front of remote gRPC servers.

python -m gateway_http --target risk=127.0.0.1:18103 --target oms=127.0.0.1:18099 --port 8080

A target without a name takes every service of the contracts.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

import grpc
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway_http.app import create_app
from gateway_http.targets import REMOTE_TIMEOUT_SEC, Binding, remote
from services.runtime.health import HealthBoard, Probe
from services.runtime.http_server import serve
from services.runtime.telemetry import configure_logging, get_logger
from trade2026.channel import open_channel
from trade2026.oms.v1 import order_service_pb2, reconciliation_service_pb2
from trade2026.risk.v1 import risk_service_pb2

SERVICES: Final[dict[str, tuple[ServiceDescriptor, ...]]] = {
    "risk": (risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"],),
    "oms": (
        order_service_pb2.DESCRIPTOR.services_by_name["OrderService"],
        reconciliation_service_pb2.DESCRIPTOR.services_by_name["ReconciliationService"],
    ),
}
"""The compiled-in contracts: nothing is asked of the target."""

PROBE_INTERVAL_SEC: Final = 5.0
GRACE_SEC: Final = 10.0
_CHANNEL_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 32 << 20),
)

_log = get_logger("gateway")


def main() -> None:
    arguments = _arguments(sys.argv[1:])
    configure_logging("gateway", "INFO")
    uvloop.run(
        run(arguments.target, arguments.host, arguments.port, arguments.timeout, arguments.authorities)
    )


async def run(
    targets: Sequence[tuple[str, str]], host: str, port: int, timeout_sec: float, authorities: str = ""
) -> None:
    """Serves until SIGTERM or SIGINT. `targets` are pairs of a name (empty: all) and an address."""
    board = HealthBoard(PROBE_INTERVAL_SEC)
    channels: list[grpc.aio.Channel] = []
    bindings: list[Binding] = []
    for name, address in targets:
        channel = open_channel(address, _CHANNEL_OPTIONS, authorities)
        channels.append(channel)
        board.register(address, critical=True, probe=_probe(channel))
        for services in [SERVICES[name]] if name else SERVICES.values():
            bindings += [remote(service, channel, timeout_sec=timeout_sec) for service in services]
    app = create_app(bindings, title="trade2026", health=board.body)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await board.probe_once()
    probing = asyncio.create_task(board.run(), name="health")
    server = await serve(app, host, port, direct=app.direct, grace_sec=GRACE_SEC)
    _log.info("gateway ready", port=server.port, targets=[address for _, address in targets])
    await stop.wait()
    board.stopping()
    await app.stop(GRACE_SEC)
    await server.stop()
    probing.cancel()
    await asyncio.wait({probing})
    for channel in channels:
        await channel.close()


def _probe(channel: grpc.aio.Channel) -> Probe:
    stub: Any = health_pb2_grpc.HealthStub(channel)

    async def probe() -> None:
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise ConnectionError("not serving")

    return probe


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gateway_http", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        type=_target,
        metavar="[NAME=]HOST:PORT",
        help=f"gRPC address of {' or '.join(SERVICES)}; may be repeated",
    )
    parser.add_argument("--port", type=int, required=True, help="HTTP port; 0: one that is free, see the log")
    parser.add_argument("--host", default="127.0.0.1", help="HTTP address (default: 127.0.0.1)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=REMOTE_TIMEOUT_SEC,
        help="seconds that a unary call may take (default: %(default)g)",
    )
    parser.add_argument(
        "--authorities",
        default="",
        metavar="FILE",
        help="PEM of those who vouch for the targets: calls are encrypted",
    )
    return parser.parse_args(words)


def _target(word: str) -> tuple[str, str]:
    name, separator, address = word.rpartition("=")
    if (separator and name not in SERVICES) or not address:
        raise argparse.ArgumentTypeError(f"{word!r} is not [{'|'.join(SERVICES)}=]HOST:PORT")
    return name, address


if __name__ == "__main__":
    main()
