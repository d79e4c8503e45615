"""Which adapters are loaded, and which one an alias names."""
