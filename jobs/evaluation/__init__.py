"""What an adapter is worth, judged on the endpoint that answers with it."""
