"""Runs: their states and transitions, the ledger that stores them, and what becomes of each attempt."""
