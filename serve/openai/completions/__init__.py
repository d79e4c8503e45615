"""`POST /v1/completions`: its body and its answer."""
