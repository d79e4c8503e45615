"""What listens. Does not know how training works."""
