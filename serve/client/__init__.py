"""The endpoint as its own clients see it: terminal chat, browser chat, benchmark. Knows HTTP, no engine and no Ray."""
