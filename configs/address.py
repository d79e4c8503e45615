"""An OpenAI-compatible endpoint's address as people give it: one rule for every command that takes `--url`."""

from urllib.parse import urlsplit

from configs.errors import ConfigError


def base_url(url: str) -> str:
    """What an OpenAI client calls base_url: without a last slash; /v1 where `url` has no path.

    Raises ConfigError for what is not an http address.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"--url '{url}' is not an address", hint="such as http://127.0.0.1:8000/v1")
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
