"""What every HTTP request passes: origin check, path, request log, and errors as responses."""
