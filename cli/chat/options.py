"""The options that every question has, whoever asks: `tandem ask`, `tandem chat`, `tandem debug channels`."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from actors import cluster
from configs.address import base_url
from configs.errors import ClusterError
from configs.paths import home

if TYPE_CHECKING:
    from serve.client.endpoint import Endpoint

MODEL = "prod"


def asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `model`, `effort`, `temperature`, `max_tokens`, `system` and `url`; None is what was not given."""
    return asking_at_most("what fits")(function)


def asking_at_most(tokens: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same; `tokens` says how long an answer may be without --max-tokens."""
    return lambda function: _asking(function, tokens)


def _asking(function: Callable[..., Any], tokens: str) -> Callable[..., Any]:
    for option in (
        click.option("--url", help="Another OpenAI-compatible endpoint. [default: the running cluster]"),
        click.option("--system", metavar="TEXT", help="Instructions for the model."),
        click.option("--max-tokens", type=click.IntRange(min=1), help=f"Longest answer. [default: {tokens}]"),
        click.option("--temperature", type=click.FloatRange(0, 2), help="0 always gives the same answer."),
        click.option("--reasoning", "effort", type=click.Choice(("low", "medium", "high")), help="The same by name."),
        click.option("--high", "effort", flag_value="high", help="Think long."),
        click.option("--medium", "effort", flag_value="medium", help="Think. [default]"),
        click.option("--low", "effort", flag_value="low", help="Think little."),
        click.option(
            "--model", help=f"The base, an alias or a live adapter version. [default: {MODEL}, or the first of --url]"
        ),
    ):
        function = option(function)
    return function


def endpoint(url: str | None) -> "Endpoint":
    """The one at `url`, with the key in OPENAI_API_KEY; without a URL that of the running cluster, wherever `tandem up`
    may start it next.

    Raises ClusterError if nothing runs, ConfigError for what is not a URL.
    """
    address = None
    if url is None:
        url, key, address = f"{cluster.require(home()).http}/v1", "none", cluster_address
    else:
        url, key = base_url(url), os.environ.get("OPENAI_API_KEY", "none")
    from serve.client.endpoint import Endpoint  # OpenAI's client takes half a second

    return Endpoint(url, api_key=key, address=address)


def cluster_address() -> str | None:
    """The base URL of this home's cluster as it is now; None while there is none."""
    try:
        return f"{cluster.require(home()).http}/v1"
    except ClusterError:
        return None


def default_model(models: Sequence[str]) -> str:
    """`prod`, or where the endpoint has no such model its first one."""
    return MODEL if MODEL in models or not models else models[0]


def chosen(model: str | None, effort: str | None, **others: Any) -> dict[str, Any]:
    """Those of Settings' fields that were given."""
    values = {"model": model, "reasoning_effort": effort} | others
    return {name: value for name, value in values.items() if value is not None}
