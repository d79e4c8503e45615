"""Responses and conversations that the server keeps, and the routes that read and delete them."""
