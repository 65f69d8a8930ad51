"""The whole platform as one part."""


class StackProcess:
    """Placeholder."""
