"""The contracts, shipped as the package `trade2026.proto`."""
