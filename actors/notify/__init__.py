"""From an event in the ledger to a message on somebody's phone."""
