"""What a person may change from the dashboard, through the gateway's `/api` routes only, and what is said about it."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from actors import cluster, http_clients
from configs import http_errors
from configs.errors import ClusterError, RequestError
from configs.paths import Home

TIMEOUT_S = 600
"""A swap's; loading and verifying a 353 MiB adapter from a slow disk takes minutes."""


@dataclass(frozen=True)
class Action:
    """One wish, as a click says it. Raises RequestError if there is no such thing to do."""

    kind: str
    """`swap`, `force` (a swap to an adapter that is suspect) or `stop`."""
    what: str
    """The adapter's version or `base`; the run."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or not isinstance(self.what, str) or not self.what:
            raise RequestError(f"the dashboard cannot do {self.kind!r} with {self.what!r}")

    def question(self, prod: str, doubts: str = "") -> str:
        """What a person is asked to confirm; it names what will be done, whatever others do meanwhile. `doubts` is what
        the adapter is suspect of."""
        if self.kind == "stop":
            return f"Stop {self.what}? Running training writes a checkpoint first and can be resumed."
        change = f"prod answers with {prod} now. Let it answer with {self.what}?"
        if self.kind == "force":
            change = f"{doubts or f'{self.what} is suspect'}. {change}"
        return f"{change} Running requests keep what they began with."

    @property
    def verb(self) -> str:
        return _KINDS[self.kind]

    @property
    def busy(self) -> str:
        return "Stopping …" if self.kind == "stop" else "Swapping: loading and verifying the adapter …"


_KINDS = {"swap": "Swap", "force": "Swap all the same", "stop": "Stop the run"}


async def do(home: Home, action: Action) -> str:
    """Carry it out; a sentence about what happened. Raises TandemError with the gateway's words."""
    if action.kind == "stop":
        run = await _post(home, f"/api/runs/{quote(action.what, safe='')}/stop", {})
        return f"{action.what} is {str(run.get('state', 'stopping')).lower()}"
    swap = await _post(home, "/api/aliases/prod", {"adapter": action.what, "force": action.kind == "force"})
    return f"prod answers with {swap['new'] or 'the base'} now; the swap took {swap['seconds']:.2f} s"


async def _post(home: Home, path: str, body: dict[str, Any]) -> dict[str, Any]:
    place = cluster.require(home).http
    try:
        async with http_clients.async_client(place, TIMEOUT_S) as http:
            response = await http.post(path, json=body)
    except httpx.HTTPError as error:
        raise ClusterError(f"no answer from {place} ({type(error).__name__})", hint="it may be restarting") from None
    if not response.is_success:
        raise http_errors.error_of(response.status_code, response.text, who="the gateway")
    return response.json()
