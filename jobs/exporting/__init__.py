"""Published adapters in other formats."""
