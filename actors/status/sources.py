"""What Ray and the gateway of a running cluster answer over HTTP, asked at the same time; missing where they do not.

Each fact is asked for once: engines and GPUs come with `/api/status`, and of `/metrics` only the gateway's counters.
Knows addresses and shapes, not what the answers mean. Called by `actors.status.overview`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from actors import http_clients
from actors.cluster import Cluster
from actors.metrics import MetricsPart
from actors.ray_edge import names
from configs import http_errors

TIMEOUT_S = 2.0
BAD_SHAPE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_WHO = {
    "actors": "Ray's table of actors",
    "serve": "Ray Serve",
    "status": "the gateway (/api/status)",
    "metrics": "the gateway (/metrics)",
}


@dataclass(frozen=True)
class Answers:
    """The JSON objects, and the text of `/metrics`; what nobody answered is None or empty."""

    actors: dict[str, Any] | None = None
    serve: dict[str, Any] | None = None
    status: dict[str, Any] = field(default_factory=dict)
    metrics: str | None = None
    control: bool | None = None
    """Whether the control actor answers the gateway; None if the gateway itself does not answer."""
    late: tuple[str, ...] = ()
    """Who did not answer in time."""
    problems: tuple[str, ...] = ()
    """A sentence for everything else that went wrong."""


def fetch(found: Cluster, token: Path, timeout_s: float = TIMEOUT_S) -> Answers:
    """Ask everybody. Takes as long as the slowest, at most about `timeout_s`, or twice that without a control actor."""
    values: dict[str, Any] = {}
    late, unavailable, problems = [], [], []
    with http_clients.client(found.http, timeout_s) as http, ThreadPoolExecutor(4) as pool:
        asked = _addresses(found, _secret(token, problems))
        waiting = {name: pool.submit(http.get, url, headers=headers) for name, (url, headers) in asked.items()}
        for name, future in waiting.items():
            try:
                values[name] = _content(name, future.result())
            except httpx.TimeoutException:
                late.append(name)
            except httpx.HTTPError as error:
                problems.append(f"{_WHO[name]} does not answer: {str(error) or type(error).__name__}")
                if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 503:
                    unavailable.append(name)
            except BAD_SHAPE as error:
                problems.append(f"{_WHO[name]} answers with something else: {type(error).__name__}: {error}")
        values["control"] = True if "status" in values else None
        if "metrics" in values and "status" not in values:  # the gateway lives
            values["status"] = _readiness(http, found)
            if "status" in (*late, *unavailable):  # it waits for the control actor
                values["control"] = False
                problems.append("the control actor does not answer the gateway: queue, swaps and stops wait for it")
                late = [name for name in late if name != "status"]
    return Answers(**values, late=tuple(_WHO[name] for name in late), problems=tuple(problems))


def _secret(token: Path, problems: list[str]) -> str:
    try:
        return token.read_text().strip()
    except (OSError, ValueError) as error:
        problems.append(f"token cannot be read: {type(error).__name__}: {error}")
        return ""


def _addresses(found: Cluster, token: str) -> dict[str, tuple[str, dict[str, str]]]:
    secret = {"Authorization": f"Bearer {token}"}
    return {
        "actors": (f"{found.dashboard}{names.ACTORS}", secret),
        "serve": (f"{found.dashboard}{names.SERVE}", secret),
        "status": (f"{found.http}/api/status", {}),
        "metrics": (f"{found.http}/metrics?collect[]={MetricsPart.REQUESTS}", {}),
    }


def _content(name: str, response: httpx.Response) -> Any:
    if not response.is_success:
        said = http_errors.fields(response.text).get("message") or " ".join(response.text.split())[:120]
        message = f"{response.status_code} {said}"
        raise httpx.HTTPStatusError(message, request=response.request, response=response)
    if name == "metrics":
        return response.text
    content = response.json()
    if not isinstance(content, dict):
        raise TypeError(f"{type(content).__name__} instead of an object")
    return content


def _readiness(http: httpx.Client, found: Cluster) -> dict[str, Any]:
    """Base and engines as the gateway knows them without the control actor; empty if it does not say."""
    try:
        content = http.get(f"{found.http}/readyz").json()
        return content if isinstance(content.get("engines"), dict) else {}
    except (httpx.HTTPError, *BAD_SHAPE):
        return {}
