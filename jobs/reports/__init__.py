"""Runs side by side, as tables, plots and TensorBoard event files."""
