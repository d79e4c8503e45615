"""Commands about the machine: up, down, status, slots, logs, metrics, notifications."""
