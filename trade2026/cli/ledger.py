"""`trade2026 ledger snapshot | rebuild | verify`: recovery of the account ledger (docs/recovery.md).

Addresses come from the options, then from the platform that runs in the data folder, then from the
configuration of oms (its file and its TRADE2026_OMS__… variables).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.recovery.site import Site, Where


def add_commands(parser: argparse.ArgumentParser, common: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the three commands to the parser of `trade2026 ledger`; `common` adds the options of all."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=summary, description=summary)
        common(one)
        one.add_argument(
            "--valkey", metavar="URL", help="Valkey of the ledger, such as redis://127.0.0.1:6379"
        )
        one.add_argument("--db", type=int, metavar="N", help="its database")
        one.add_argument("--nats", metavar="URL", help="NATS, such as nats://127.0.0.1:4222")
        one.add_argument("--questdb", metavar="URL", help="PostgreSQL side of QuestDB, asked by --trim")
        one.set_defaults(command=run)
        return one

    snapshot = command(
        "snapshot", _snapshot, "keep the state of every account in JetStream, so that LEDGER may be trimmed"
    )
    snapshot.add_argument(
        "--trim", action="store_true", help="then remove from LEDGER what the snapshot and orders_log hold"
    )
    command("rebuild", _rebuild, "write the ledger anew from its journal; its accounts are denied meanwhile")
    command("verify", _verify, "compare every account and order with the journal; status 1 on a difference")


def _say(line: str) -> None:
    print(line, flush=True)


def _snapshot(options: argparse.Namespace) -> int:
    from services.recovery import snapshot
    from services.runtime.clock import SystemClock

    async def work(site: Site) -> int:
        taken = await snapshot.take(site, SystemClock())
        _say(
            f"snapshot of {taken.accounts} accounts and {taken.orders} orders "
            f"at message {taken.manifest.sequence} of LEDGER"
        )
        if options.trim:
            until = await snapshot.trim(site, _say)
            _say(f"LEDGER is trimmed up to message {until}")
        return 0

    return _run(options, work)


def _rebuild(options: argparse.Namespace) -> int:
    from services.recovery.rebuild import rebuild
    from services.runtime.clock import SystemClock

    async def work(site: Site) -> int:
        done = await rebuild(site, SystemClock(), _say)
        _say(
            f"rebuilt {done.accounts} accounts and {done.orders} orders as {done.incarnation}; "
            f"{done.salvaged} commits came from the outbox; {len(done.failures)} failures"
        )
        return 1 if done.failures else 0

    return _run(options, work)


def _verify(options: argparse.Namespace) -> int:
    from services.recovery.verify import verify

    async def work(site: Site) -> int:
        done = await verify(site, _say)
        _say(
            f"compared {done.accounts} accounts and {done.orders} stored orders: "
            f"{len(done.differences)} differences"
        )
        return 1 if done.differences else 0

    return _run(options, work)


def _run(options: argparse.Namespace, work: Callable[[Site], Coroutine[Any, Any, int]]) -> int:
    from services.recovery.site import FAILURES, RecoveryError, open_site
    from services.runtime.settings import SettingsError

    async def opened(where: Where) -> int:
        async with open_site(where) as site:
            return await work(site)

    try:
        return asyncio.run(opened(_where(options)))
    except (RecoveryError, SettingsError, *FAILURES) as error:
        print(str(error) or type(error).__name__, file=sys.stderr)
        return 2


def _where(options: argparse.Namespace) -> Where:
    """Raises `SettingsError`."""
    from services.oms.settings import OmsSettings
    from services.recovery.site import Where
    from services.runtime.local_stack.assembly import ServicePart, assemble
    from services.runtime.local_stack.state import StackFolder, default_data
    from services.runtime.settings import load_settings

    environment = dict(os.environ)
    chosen: Path | None = options.data
    data = chosen.resolve() if chosen is not None else default_data(options.port_offset)
    running = StackFolder(data).read()
    if running is not None:
        for stage in assemble(running.options(data)):
            for part in stage:
                if isinstance(part, ServicePart) and part.name == "oms":
                    environment |= part.environment()
    settings = load_settings("oms", OmsSettings, environment)
    ledger, valkey = settings.ledger, settings.valkey
    return Where(
        ledger_url=options.valkey or ledger.url,
        ledger_db=ledger.db if options.db is None else options.db,
        partitions=ledger.partitions,
        projection_url=options.valkey or valkey.url,
        projection_db=valkey.db,
        nats_url=options.nats or settings.nats.url,
        questdb_pg_url=options.questdb or settings.questdb.pg_url,
        questdb_http_url=settings.questdb.http_url,
    )
