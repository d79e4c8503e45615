"""What a page may do, as the browser enforces it: no scripts but Gradio's own, nothing loaded from anywhere else.

So even an answer that got past escaping and sanitising runs no script and fetches nothing. An ASGI middleware.
"""

import re
import secrets
from typing import Any

POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "connect-src 'self'; frame-src 'none'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
"""unsafe-eval: Gradio 6 compiles the `js` of its events with `new Function`; that text is ours, never an answer's."""

_SCRIPT = re.compile(rb"<script\b")


class Guard:
    """Adds the policy to every response, and its nonce to the scripts of Gradio's pages, which hold no one's text."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _Page(send).send)


class _Page:
    """One response. An HTML page is held until it is whole; all else passes at once."""

    def __init__(self, send: Any) -> None:
        self._send, self._start, self._body = send, None, b""
        self._nonce = secrets.token_urlsafe(16)

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            policy = POLICY.format(nonce=self._nonce).encode()
            message["headers"] = [
                *message.get("headers", []), (b"content-security-policy", policy), (b"referrer-policy", b"no-referrer"),
                (b"x-content-type-options", b"nosniff"),
            ]  # fmt: skip
            if self._is_page(message):
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            await self._send_page()
            return
        await self._send(message)

    @staticmethod
    def _is_page(message: dict) -> bool:
        headers = dict(message["headers"])
        return headers.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in headers

    async def _send_page(self) -> None:
        body = _SCRIPT.sub(b'<script nonce="' + self._nonce.encode() + b'"', self._body)
        kept = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        headers = [*kept, (b"content-length", str(len(body)).encode())]
        await self._send(self._start | {"headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self._start = None
