"""GPUs and host as they are now, and a process placed on the one GPU of its slot."""
