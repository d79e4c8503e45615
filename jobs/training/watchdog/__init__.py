"""Rules that find a run that goes wrong, while it trains and before it is published."""
