"""The API described for machines (`/openapi.json`) and for people (`/docs`)."""
