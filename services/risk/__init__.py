"""The risk service: pre-trade checks on the shared account ledger."""
