"""The `trade2026` command: the whole platform on one machine."""
