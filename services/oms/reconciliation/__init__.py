"""Reconciliation: ledger, fill store and venue compared as of one report, while orders are flowing."""
