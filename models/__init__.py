"""The model's own facts: format, checkpoints, adapters. Does not know Ray."""
