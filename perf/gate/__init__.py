"""The documented acceptance runs, with their levels: `python -m perf.gate`."""
