"""The gateway's routes, one file for each API. They parse, call a service and count."""
