"""What a person types. Nothing heavy at import."""
