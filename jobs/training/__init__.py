"""Supervised fine-tuning inside the pinned actor: the loop, what it keeps, measures and gives up."""
