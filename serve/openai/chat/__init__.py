"""`POST /v1/chat/completions`: its body, its messages and tools, its answer."""
