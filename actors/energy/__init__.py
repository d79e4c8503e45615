"""What a run takes of its GPU: joules measured, stored by day, and turned into kWh, money and CO2."""
