"""One generation on one engine, pinned to one adapter version, whichever route asked for it."""
