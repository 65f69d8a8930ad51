"""Supervision of the parts."""


class Stack:
    """Placeholder."""
