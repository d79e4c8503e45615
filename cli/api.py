"""The gateway's HTTP API as the commands call it: errors come back as the TandemError that they were."""

from typing import Any

import httpx

from actors import cluster, http_clients
from configs import http_errors
from configs.errors import ClusterError
from configs.paths import home

SWAP_TIMEOUT_S = 600  # a 353 MiB adapter from a slow disk, loaded and verified


class Api:
    """One running cluster's gateway. Raises ClusterError if nothing runs."""

    def __init__(self) -> None:
        self.cluster = cluster.require(home())
        self._http = http_clients.client(self.cluster.http, httpx.Timeout(30, read=SWAP_TIMEOUT_S))

    def get(self, path: str) -> Any:
        """The answer's JSON."""
        return self._send("GET", path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The same of a request with a JSON body."""
        return self._send("POST", path, body or {})

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ClusterError(
                f"no answer from {self.cluster.http} ({type(error).__name__})",
                hint="it may be restarting: try again, or `tandem down` and `tandem up`",
            ) from None
        if response.is_success:
            return response.json()
        raise http_errors.error_of(response.status_code, response.text, who="the gateway")
