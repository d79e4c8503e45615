"""What every screen draws: one look at cluster, slots, runs, requests and the day."""
