"""Runs side by side, as tables and plots."""
