"""ASGI middleware of the servers on this machine: `PlainPaths`, and who may talk to them through a browser.

That is their own pages, by their own name. A browser sends what any web page asks it to send, to 127.0.0.1 as well. So
a request is refused if it names a host that is not ours (a foreign name that was made to point here, DNS rebinding), or
if it comes from a page of another origin. Programs send neither `Origin` nor `Sec-Fetch-Site` and notice nothing.
Called by the gateway and by the chat page.
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from configs.errors import RequestError
from serve.http.error_answer import respond

ANY = "*"
"""As one of the allowed hosts: whatever name the server is called by."""
ELSE = "behind a reverse proxy see Security in docs/operations.md"


class OwnPagesOnly:
    """Answers 403 to what `refusal` refuses."""

    def __init__(self, app: Any, allowed_hosts: Iterable[str] = ()) -> None:
        """`allowed_hosts` are names or addresses, without port, that the server is called by beside its loopback ones;
        pages of them count as its own."""
        self.app = app
        self.allowed = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        error = refusal(scope, self.allowed) if scope["type"] in ("http", "websocket") else None
        if error is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
        else:
            await respond(error, scope, status=403)(scope, receive, send)


def refusal(scope: dict, allowed: Collection[str] = ()) -> RequestError | None:
    """Why a request of ASGI `scope` is not for us; None if it is."""
    headers = Headers(scope=scope)
    host, origin = headers.get("host", ""), headers.get("origin")
    name = _hostname(host)
    # No browser leaves Host out; health checks in HTTP/1.0 do.
    if host and not (ANY in allowed or name in allowed or _is_loopback(name)):
        return RequestError(
            f"this server does not answer to the host name '{host[:100]}'",
            hint=f"call it localhost or 127.0.0.1; {ELSE}",
        )
    # A page cannot set X-Forwarded-Host on a request to another origin without asking first, which is refused here.
    own = {host.lower(), headers.get("x-forwarded-host", "").lower()} - {""}
    if origin is not None and not (_netloc(origin) in own or _hostname(_netloc(origin)) in allowed):
        return RequestError(
            f"a web page of another origin ({origin[:100]}) may not use this server",
            hint=f"use its own page, or a program; {ELSE}",
        )
    if headers.get("sec-fetch-site") == "cross-site" and origin is None and not _is_followed_link(scope, headers):
        return RequestError("a web page of another site may not use this server", hint="open the address itself")
    return None


def _is_followed_link(scope: dict, headers: Headers) -> bool:
    """A person went from another site's page to ours: that changes nothing here, and the other page does not see it."""
    opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return scope.get("method") in ("GET", "HEAD") and opened


def _netloc(origin: str) -> str:
    """Host and port of an origin; empty for what is none, as `null`."""
    return origin.lower().partition("://")[2]


def _hostname(netloc: str) -> str:
    """Without the port, in lower case; empty if it cannot be read."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class PlainPaths:
    """Gives the app each path with single slashes, and without one at its end: `//v1/models/` is `/v1/models`.

    A base URL that ends in a slash doubles it, and some clients end paths with one.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["path"] = re.sub("/{2,}", "/", scope["path"]).rstrip("/") or "/"
        await self.app(scope, receive, send)
