"""How much the servers survive: a dead process, or a dead machine."""

from enum import StrEnum


class Durability(StrEnum):
    """What an acknowledged write survives."""

    PROCESS = "process"
    """SIGKILL of any process. Writes reach the kernel before they are acknowledged."""

    STRICT = "strict"
    """Loss of power. JetStream syncs before it acknowledges a message, QuestDB before it commits."""
