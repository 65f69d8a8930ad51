"""`trade2026`: the whole platform on this machine: up, down, status, logs, demo, and operators' tools."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trade2026.cli.ledger import add_commands as add_ledger_commands

if TYPE_CHECKING:
    from services.runtime.local_stack.background import PartStatus

# What a command needs beyond the client is imported when it runs: a client's install has no servers.
_INSTALL = "pip install 'trade2026[server,tools]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed; install it with: {_INSTALL}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone (`trade2026 logs oms | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trade2026", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = _command(commands, "up", _up, "start Valkey, NATS, QuestDB and the services")
    up.add_argument("--detach", action="store_true", help="return when all is healthy, leave it running")
    up.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="processes of risk and of oms (1)"
    )
    up.add_argument(
        "--profile",
        choices=["process", "strict"],
        default="process",
        help="what acknowledged data survives: a killed process, or a loss of power (process)",
    )

    _command(commands, "down", _down, "stop what runs in the data folder")

    status = _command(
        commands, "status", _status, "what runs, where, and how it is; status 1 unless all is healthy"
    )
    status.add_argument("--json", action="store_true", help="a list of {name, pid, addresses, healthy}")

    logs = _command(commands, "logs", _logs, "print the log of a part")
    logs.add_argument(
        "name", metavar="NAME", help="part, such as oms; `stack` is the supervisor in the background"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("-n", "--lines", type=_positive, metavar="N", help="only the last N lines")

    summary = "compare ledger, fill store and venue; status 1 when something differs"
    reconcile = commands.add_parser("reconcile", help=summary, description=summary)
    reconcile.add_argument(
        "--target", default="127.0.0.1:18099", metavar="HOST:PORT", help="gRPC side of oms"
    )
    reconcile.add_argument(
        "--authorities", default="", metavar="FILE", help="PEM of those who vouch for oms (TLS)"
    )
    reconcile.add_argument("--account", help="only this account")
    reconcile.add_argument("--symbol", help="only this position")
    reconcile.add_argument(
        "--repair",
        choices=["to-venue", "accept"],
        help="book what the venue has, or declare that the ledger is right; needs --account, --symbol,"
        " --reason and --by",
    )
    reconcile.add_argument("--price", help="of what is booked (that of the last fill)")
    reconcile.add_argument("--reason", help="why, for the journal")
    reconcile.add_argument("--by", metavar="WHO", help="who asks, for the journal")
    reconcile.set_defaults(command=_reconcile)

    summary = "the newest messages that could not be used, with the reason"
    letters = commands.add_parser("deadletters", help=summary, description=summary)
    letters.add_argument("--nats", default="nats://127.0.0.1:4222", metavar="URL", help="address of NATS")
    letters.add_argument("-n", "--lines", type=_positive, default=20, metavar="N", help="how many (20)")
    letters.set_defaults(command=_deadletters)

    ledger = commands.add_parser("ledger", help="snapshot, rebuild or verify the account ledger")
    add_ledger_commands(ledger, _add_place)

    demo = commands.add_parser("demo", help="show one order's way through a platform of its own")
    demo.set_defaults(command=_demo)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    _add_place(parser)
    parser.set_defaults(command=command)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of data and logs")
    parser.add_argument("--port-offset", type=_offset, default=0, metavar="N", help="added to every port (0)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _offset(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 40_000:
        raise argparse.ArgumentTypeError("must be between 0 and 40000")
    return number


def _data(options: argparse.Namespace) -> Path:
    from services.runtime.local_stack.state import default_data

    chosen: Path | None = options.data
    return chosen.resolve() if chosen is not None else default_data(options.port_offset)


def _say(line: str) -> None:
    """One line for the operator, at once; neither a full disk nor a terminal that has gone ends the platform.

    Lines that found no room are written with the first one that does.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _up(options: argparse.Namespace) -> int:
    from services.runtime.local_stack.assembly import StackOptions
    from services.runtime.local_stack.background import start_detached
    from services.runtime.local_stack.durability import Durability
    from services.runtime.local_stack.foreground import run

    configuration = os.environ.get("TRADE2026_CONFIG_DIR")
    if configuration:  # the services run in folders of their own
        os.environ["TRADE2026_CONFIG_DIR"] = str(Path(configuration).resolve())
    chosen = StackOptions(_data(options), options.port_offset, options.workers, Durability(options.profile))
    return start_detached(chosen, _say) if options.detach else run(chosen, _say)


def _down(options: argparse.Namespace) -> int:
    from services.runtime.local_stack.background import stop

    return stop(_data(options), _say)


def _status(options: argparse.Namespace) -> int:
    from services.runtime.local_stack.background import status

    parts = status(_data(options), options.port_offset)
    if options.json:
        fields = [
            {"name": part.name, "pid": part.pid, "addresses": dict(part.addresses), "healthy": part.healthy}
            for part in parts
        ]
        print(json.dumps(fields, indent=2))
    else:
        print("\n".join(_status_line(part) for part in parts))
    return 0 if all(part.healthy for part in parts) else 1


def _status_line(part: PartStatus) -> str:
    state = "healthy" if part.healthy else part.detail
    where = "  ".join(f"{protocol} {address}" for protocol, address in part.addresses.items())
    return f"{part.name:<13} {part.pid or '-':>8}  {state:<12}  {where}"


def _logs(options: argparse.Namespace) -> int:
    from services.runtime.local_stack.state import StackFolder

    folder = StackFolder(_data(options))
    path = folder.log_path(options.name)
    if not path.exists():
        known = ", ".join(folder.log_names()) or "none yet"
        print(f"no log of {options.name} in {folder.data}; there are: {known}", file=sys.stderr)
        return 1
    with path.open(encoding="utf-8", errors="replace") as log:
        sys.stdout.writelines(log if options.lines is None else deque(log, options.lines))
        sys.stdout.flush()
        while options.follow:
            sys.stdout.write(log.read())
            sys.stdout.flush()
            time.sleep(0.2)
    return 0


def _reconcile(options: argparse.Namespace) -> int:
    from trade2026.cli.reconcile import run

    return run(options)


def _deadletters(options: argparse.Namespace) -> int:
    from trade2026.cli.deadletters import run

    return run(options)


def _demo(_: argparse.Namespace) -> int:
    from trade2026.cli.demo import run

    return run()
