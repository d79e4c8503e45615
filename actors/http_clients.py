"""Every HTTP client of ours, made in one place. What listens on this machine is reached past the environment: no proxy,
no certificates, no .netrc. Every other address is reached as the environment says.

Called wherever something of ours speaks HTTP; knows no routes.
"""

import contextlib
import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from configs import environment
from configs.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp
    import httpx2
    import openai


def is_here(url: str) -> bool:
    """Whether `url` is plain HTTP to this machine's own loopback."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return False
    if parts.hostname == "localhost" or parts.hostname.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def client(url: str, timeout: float | httpx.Timeout, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """A client whose paths begin at `url`. Raises ConfigError, as all below, for a proxy that cannot be used."""
    with _environment_for(url) as trusted:
        return httpx.Client(base_url=url, timeout=timeout, headers=headers, verify=trusted, trust_env=trusted)


def ray_client(dashboard: str, token: Path, timeout: float = 30) -> httpx.Client:
    """A client of Ray's REST API, which asks for the secret in the file `token`."""
    return client(dashboard, timeout, {"Authorization": f"Bearer {token.read_text().strip()}"})


def async_client(
    url: str, timeout: float | httpx.Timeout, transport: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    with _environment_for(url) as trusted:
        return httpx.AsyncClient(base_url=url, timeout=timeout, transport=transport, verify=trusted, trust_env=trusted)


def openai_client(url: str, api_key: str, timeout: float) -> "openai.OpenAI":
    """OpenAI's own client, which asks once and does not try again."""
    import openai  # half a second

    with _environment_for(url) as trusted:
        http = openai.DefaultHttpxClient(timeout=timeout, verify=trusted, trust_env=trusted)
        return openai.OpenAI(base_url=url, api_key=api_key, max_retries=0, http_client=http)


def async_openai_client(
    url: str, api_key: str, timeout: "httpx2.Timeout", http_client: "httpx2.AsyncClient | None" = None
) -> "openai.AsyncOpenAI":
    import openai

    with _environment_for(url) as trusted:
        http = http_client or openai.DefaultAsyncHttpxClient(timeout=timeout, verify=trusted, trust_env=trusted)
        return openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=timeout, http_client=http)


def aiohttp_session(
    url: str, connector: "aiohttp.BaseConnector", timeout: "aiohttp.ClientTimeout", headers: Mapping[str, str]
) -> "aiohttp.ClientSession":
    """A session for requests to `url` and below it. aiohttp knows HTTP proxies only."""
    import aiohttp

    with _environment_for(url) as trusted:
        scheme = urlsplit(url).scheme
        if trusted and not (proxy := getproxies().get(scheme, "http://")).startswith("http://"):
            raise ConfigError(
                f"{scheme}_proxy is a {proxy.partition(':')[0]} proxy, and this command can use http:// ones only",
                hint=f"unset it, or name {urlsplit(url).hostname} in NO_PROXY",
            )
        return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, trust_env=trusted)


@contextlib.contextmanager
def _environment_for(url: str) -> Iterator[bool]:
    """Whether a client of `url` goes by the environment; what is wrong with that then raises ConfigError."""
    trusted = not is_here(url)
    if trusted:
        environment.check_proxies(os.environ)
    yield trusted
