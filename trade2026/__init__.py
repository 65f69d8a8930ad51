"""What a client of trade2026 imports: the generated contracts, the client, and the `trade2026` command."""
