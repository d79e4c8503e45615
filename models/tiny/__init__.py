"""The embedded model: a gpt-oss small enough for a test, made by the scripts in this folder."""
