"""The services of trade2026: risk, oms, the paper venue, market data, and what they share."""
