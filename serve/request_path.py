"""Paths as clients put them together, as the routes have them: `//v1/models/` is `/v1/models`. An ASGI middleware.

A base URL that ends in a slash doubles it, and some clients end paths with one. Called by the gateway.
"""

import re
from typing import Any


class PlainPaths:
    """Gives the app each path with single slashes, and without one at its end."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["path"] = re.sub("/{2,}", "/", scope["path"]).rstrip("/") or "/"
        await self.app(scope, receive, send)
