"""What fits on the card: the micro-batch is measured, and memory is given up in a fixed order."""
