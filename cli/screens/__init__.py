"""Terminal screens and pictures: they draw an Overview or a curve and read nothing."""
