"""What is decided before anything runs. Knows neither Ray nor torch."""
