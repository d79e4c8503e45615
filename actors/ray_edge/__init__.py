"""Every place that touches Ray's jobs, proxy or private modules, each with the Ray version that needs it."""
