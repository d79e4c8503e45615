"""LoRA adapters on disk: publish, list, verify, merge."""
