"""The whole platform as one part: `trade2026 up` as a child process, for tests and the demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from services.runtime.local_stack.assembly import PORTS, StackOptions, addresses
from services.runtime.local_stack.background import up_command
from services.runtime.local_stack.durability import Durability
from services.runtime.local_stack.part import HEALTHY, Health, Part, not_ready
from services.runtime.local_stack.ports import free_port_offset
from services.runtime.local_stack.state import Phase, StackFolder


class StackProcess(Part):
    """A stack of its own on free ports, with its data under `folder`; healthy when every part was.

    `variables` are added to the environment of all services (`TRADE2026_RISK__…`).
    """

    start_timeout_sec = 180.0
    stop_timeout_sec = 90.0

    def __init__(
        self,
        folder: Path,
        workers: int = 1,
        durability: Durability = Durability.PROCESS,
        variables: Mapping[str, str] | None = None,
        port_offset: int | None = None,
    ) -> None:
        if port_offset is None:
            port_offset = free_port_offset(port for ports in PORTS.values() for port in ports.values())
        self.options = StackOptions(folder, port_offset, workers, durability)
        self.part_addresses = addresses(port_offset)
        super().__init__(
            "stack",
            folder,
            {
                f"{name}.{protocol}": address
                for name, by_protocol in self.part_addresses.items()
                for protocol, address in by_protocol.items()
            },
        )
        self._folder = StackFolder(folder)
        self._variables = dict(variables or {})

    def command(self) -> Sequence[str]:
        return up_command(self.options)

    def environment(self) -> Mapping[str, str]:
        return self._variables

    def probe(self) -> Health:
        state = self._folder.read()
        if state is None or state.supervisor != self.pid:
            return not_ready("it has not begun")
        return HEALTHY if state.phase is Phase.RUNNING else not_ready(state.phase)

    def address(self, part: str, protocol: str) -> str:
        """`host:port` of a part, such as ("oms", "rest")."""
        return self.part_addresses[part][protocol]

    def part_pid(self, part: str) -> int | None:
        """Process id of a part now, None while it is down."""
        state = self._folder.read()
        return state.pids.get(part) if state is not None else None

    def part_log(self, part: str) -> Path:
        """Log file of a part."""
        return self._folder.log_path(part)
