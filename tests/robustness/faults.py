"""Doing a fault and undoing it. Each kind is one coroutine: hurt, wait, heal.

`full` means for
- live-gateway, questdb: files cannot grow (RLIMIT_FSIZE of the running processes; writes fail with EFBIG);
- nats: the same. The server goes on refusing to write when there is room again (on a truly full disk it
  switches JetStream off), so the healing includes what its operator has to do: restart it;
- valkey: no memory (`maxmemory`), so that every write is refused;
- ORDERS, EXECUTIONS, LEDGER: the stream refuses messages (`max_bytes`).

Real tmpfs mounts would need privileges; these need none and fail the same calls.
"""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import nats
import nats.errors
import redis.asyncio

from services.runtime.local_stack.part import Part
from tests.integration.ledger.proxy import Faults
from tests.integration.oms.platform import processes, worker_pids
from tests.robustness.plan import Fault, Kind
from tests.robustness.platform import Link, Platform, signal_all

LOSSES: Final = Faults(lose_answer=0.01, deliver_late=0.01, delay=0.1, longest=0.2)
SLOWNESS: Final = Faults(delay=1.0, longest=0.15)
_STREAMS: Final = ("ORDERS", "EXECUTIONS", "LEDGER")
_LARGEST_FILE: Final = 4096
_ROOMY: Final = 2 << 30
_OPERATOR_SEC: Final = 90.0


async def inject(platform: Platform, fault: Fault) -> None:
    """Does `fault`, lasts it out and undoes it; returns when the healing has begun, not when it is done."""
    await _DOINGS[fault.kind](platform, fault)


async def _kill(platform: Platform, fault: Fault) -> None:
    part = platform.parts[fault.target]
    signal_all(part, signal.SIGKILL)
    await asyncio.to_thread(part.kill)
    await asyncio.sleep(fault.seconds)
    await _start(platform, part)


async def _start(platform: Platform, part: Part) -> None:
    """Starts a part again. A server that is not ours is healed when it serves."""
    part.start()
    if part.name not in platform.services:
        await part.until_healthy(_OPERATOR_SEC)


async def _kill_first(platform: Platform, fault: Fault) -> None:
    part = platform.parts[fault.target]
    await asyncio.to_thread(part.kill)
    await asyncio.sleep(fault.seconds)
    part.start()


async def _restart(platform: Platform, fault: Fault) -> None:
    part = platform.parts[fault.target]
    await asyncio.to_thread(part.stop)
    await asyncio.sleep(fault.seconds)
    await _start(platform, part)


async def _pause(platform: Platform, fault: Fault) -> None:
    part = platform.parts[fault.target]
    signal_all(part, signal.SIGSTOP)
    await asyncio.sleep(fault.seconds)
    signal_all(part, signal.SIGCONT)


async def _kill_worker(platform: Platform, fault: Fault) -> None:
    _signal_worker(platform, fault, signal.SIGKILL)


async def _pause_worker(platform: Platform, fault: Fault) -> None:
    worker = _signal_worker(platform, fault, signal.SIGSTOP)
    await asyncio.sleep(fault.seconds)
    for process in processes(platform.parts[fault.target]):
        if process.pid == worker:
            process.send_signal(signal.SIGCONT)


def _signal_worker(platform: Platform, fault: Fault, number: signal.Signals) -> int:
    part = platform.parts[fault.target]
    workers = sorted(worker_pids(part))
    if not workers:
        return 0
    chosen = workers[int(fault.amount * len(workers))]
    for process in processes(part):
        if process.pid == chosen:
            process.send_signal(number)
    return chosen


async def _cut(platform: Platform, fault: Fault) -> None:
    link = platform.links[fault.target]
    link.refusing = True
    link.break_all()
    await asyncio.sleep(fault.seconds)
    link.refusing = False


async def _mute(platform: Platform, fault: Fault) -> None:
    link = platform.links[fault.target]
    link.talking.clear()
    await asyncio.sleep(fault.seconds)
    link.talking.set()


async def _lossy(platform: Platform, fault: Fault) -> None:
    await _weather(platform.links[fault.target], LOSSES, fault.seconds)


async def _slow(platform: Platform, fault: Fault) -> None:
    await _weather(platform.links[fault.target], SLOWNESS, fault.seconds)


async def _weather(link: Link, faults: Faults, seconds: float) -> None:
    link.faults = faults
    await asyncio.sleep(seconds)
    link.faults = Faults()


async def _clock(platform: Platform, fault: Fault) -> None:
    service = platform.services[fault.target]
    service.set_clock(fault.amount)
    await asyncio.sleep(fault.seconds)
    service.set_clock(0.0)


async def _full(platform: Platform, fault: Fault) -> None:
    if fault.target in _STREAMS:
        await _full_stream(platform, fault)
    elif fault.target == "valkey":
        await _certainly(_limit_memory, platform, "1mb")
        await asyncio.sleep(fault.seconds)
        await _certainly(_limit_memory, platform, "0")
    else:
        await _full_disk(platform, fault)


async def _full_stream(platform: Platform, fault: Fault) -> None:
    await _certainly(_limit_stream, platform, fault.target, True)
    await asyncio.sleep(fault.seconds)
    await _certainly(_limit_stream, platform, fault.target, False)


async def _certainly(do: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """An operator's change, made again while another fault keeps it from its server."""
    async with asyncio.timeout(_OPERATOR_SEC):
        while True:
            try:
                return await do(*arguments)
            except (OSError, TimeoutError, redis.RedisError, nats.errors.Error):
                await asyncio.sleep(0.1)


async def _limit_memory(platform: Platform, size: str) -> None:
    async with redis.asyncio.Redis.from_url(platform.where.valkey, socket_timeout=2) as client:
        await client.config_set("maxmemory", size)


async def _limit_stream(platform: Platform, stream: str, full: bool) -> None:
    client = await nats.connect(platform.where.nats, connect_timeout=2, allow_reconnect=False)
    try:
        js = client.jetstream(timeout=2)
        info = await js.stream_info(stream)
        limit = max(1, info.state.bytes) if full else _ROOMY
        await js.update_stream(config=info.config.evolve(max_bytes=limit))
    finally:
        await client.close()


async def _full_disk(platform: Platform, fault: Fault) -> None:
    part = platform.parts[fault.target]
    hurt = [process.pid for process in processes(part)]
    for pid in hurt:
        _limit_files(pid, _LARGEST_FILE)
    await asyncio.sleep(fault.seconds)
    for pid in hurt:
        _limit_files(pid, resource.RLIM_INFINITY)
    if part is platform.nats:
        await asyncio.to_thread(part.stop)
    if not part.running:
        await _start(platform, part)


def _limit_files(pid: int, size: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    except ProcessLookupError:
        return


_DOINGS: Final[Mapping[Kind, Callable[[Platform, Fault], Awaitable[None]]]] = {
    Kind.KILL: _kill,
    Kind.KILL_FIRST: _kill_first,
    Kind.RESTART: _restart,
    Kind.PAUSE: _pause,
    Kind.KILL_WORKER: _kill_worker,
    Kind.PAUSE_WORKER: _pause_worker,
    Kind.CUT: _cut,
    Kind.MUTE: _mute,
    Kind.LOSSY: _lossy,
    Kind.SLOW: _slow,
    Kind.CLOCK: _clock,
    Kind.FULL: _full,
}
