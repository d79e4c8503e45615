"""Base models on disk: find, fetch, check and load them."""
