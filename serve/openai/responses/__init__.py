"""`POST /v1/responses`: its body and input items, its events and output items."""
