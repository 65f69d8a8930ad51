"""The platform on one machine: real Valkey, NATS and QuestDB from packages, and the services.

Tests use `LocalServers` (the servers alone) and `StackProcess` (the whole platform behind `trade2026 up`);
the command itself is built on `Stack`. All are child processes that die with the process that started them.
"""

from services.runtime.local_stack.durability import Durability
from services.runtime.local_stack.nats import NatsServer
from services.runtime.local_stack.part import Health, Part, PartFailed, PartUnavailable
from services.runtime.local_stack.ports import free_port_offset, free_ports, port_holder
from services.runtime.local_stack.questdb import QuestDbServer
from services.runtime.local_stack.servers import LocalServers
from services.runtime.local_stack.stack import Stack
from services.runtime.local_stack.stack_process import StackProcess
from services.runtime.local_stack.valkey import ValkeyServer

__all__ = [
    "Durability",
    "Health",
    "LocalServers",
    "NatsServer",
    "Part",
    "PartFailed",
    "PartUnavailable",
    "QuestDbServer",
    "Stack",
    "StackProcess",
    "ValkeyServer",
    "free_port_offset",
    "free_ports",
    "port_holder",
]
