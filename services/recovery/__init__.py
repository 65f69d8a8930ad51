"""Recovery of the account ledger: snapshots, rebuild and verification, run by an operator's command."""
