"""The HTTP server of `tandem metrics`, on loopback: `/metrics`, and `/ray` with the addresses of Ray's own metrics."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from actors.cluster import LOOPBACK
from actors.metrics import ClusterCollector, GatewayCollector, ray_targets
from configs.errors import ClusterError
from configs.paths import Home


class Exporter(ThreadingHTTPServer):
    """Serves one home's metrics on `port`, whatever state its cluster and ledger are in. Raises ClusterError."""

    daemon_threads = True

    def __init__(self, home: Home, port: int) -> None:
        self.home = home
        self.registry = CollectorRegistry()
        self.registry.register(ClusterCollector(home))
        self.registry.register(GatewayCollector(home))
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except PermissionError:
            raise ClusterError(f"port {port} needs root", hint="tandem metrics --port <another above 1023>") from None
        except OSError:
            raise ClusterError(f"port {port} is in use", hint="tandem metrics --port <another>") from None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up, such as a Prometheus that waited long enough, is not worth a traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self.registry)
        if path == "/ray":
            return 200, "application/json", json.dumps(ray_targets(self.home)).encode()
        return 404, "text/plain; charset=utf-8", b"here are /metrics and /ray\n"


class _Handler(BaseHTTPRequestHandler):
    server: Exporter

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def do_GET(self) -> None:
        self._answer(whole=True)

    def _answer(self, *, whole: bool) -> None:
        status, kind, body = self.server.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if whole:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """A scrape is not worth a line."""
