"""Measurements, not tests: each prints JSON and can write it to tests/bench/results/."""
