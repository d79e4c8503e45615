"""OpenAI's wire formats to and from engine terms, one file per route. Know neither HTTP nor Ray."""
