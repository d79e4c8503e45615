"""What was meant by a name that does not exist: our own spelled otherwise, what others call so, or the nearest one.

For keys of the configuration here, for options and commands in `cli.mistyped`. Only ever asked when something is wrong.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

from configs import foreign_names
from configs.foreign_names import squash
from configs.schema import ClusterConfig, RunConfig, ServeConfig

NEAR = 0.7
"""Likeness from which on a name is a guess; `max_stpes` has 0.88 with `max_steps`."""

KINDS = (ServeConfig, ClusterConfig, RunConfig)
OPTION = {"http_port": "--port", "base": "--base", "max_context": "--max-context"}
"""Of `tandem up`, for keys that have one."""


def exact(name: str, ours: Sequence[str], others: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Those of `ours` that are `name` but for dashes, dots, capitals and section, else those that others call so."""
    words = (squash(name), squash(_leaf(name)))
    same = [each for each in ours if squash(each) in words or squash(_leaf(each)) in words]
    return _of_its_section(name, same or [each for word in words for each in others.get(word, ()) if each in ours])


def near(name: str, ours: Sequence[str], others: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Those of `ours` whose own name, or one that others give them, is most like `name`; empty if none is, or if it is
    known what `name` means elsewhere."""
    spelled: dict[str, list[str]] = {}
    for each in ours:
        spelled.setdefault(squash(_leaf(each)), []).append(each)
    for word, meant in others.items():
        if found := [each for each in meant if each in ours]:
            spelled.setdefault(word, found)
    known = squash(_leaf(name)) in foreign_names.by_name(foreign_names.NOTES)
    match = [] if known else difflib.get_close_matches(squash(_leaf(name)), spelled, n=1, cutoff=NEAR)
    return _of_its_section(name, spelled[match[0]]) if match else []


def keys(name: str, kind: type[BaseModel], siblings: Sequence[str] = ()) -> str:
    """A sentence that says which key, of `kind` or of another, was meant by `name`; empty if none comes to mind.

    `siblings` are keys beside it that `known_keys` does not have, as in a list's items.
    """
    ours, table = [*dict.fromkeys((*siblings, *known_keys(kind)))], foreign_names.by_name(foreign_names.SETTINGS)
    found = [f"'{each}'" for each in exact(name, ours, table)] or elsewhere(name, kind)
    return sentence(found or [f"'{each}'" for each in near(name, ours, table)], name)


def elsewhere(name: str, *kinds: type[BaseModel]) -> list[str]:
    """How the setting is made that has this very name, here or with others, outside of `kinds`."""
    others = [kind for kind in KINDS if kind not in kinds]
    for table in ({}, foreign_names.by_name(foreign_names.SETTINGS)):
        for kind in others:
            if found := exact(name, known_keys(kind), table):
                return [how_to_set(each, kind) for each in found[:2]]
    return []


def how_to_set(key: str, kind: type[BaseModel]) -> str:
    """What a person types to set a key."""
    if kind is RunConfig:
        return f"`tandem train --set {key}=...`"
    if key in OPTION:
        return f"`tandem up {OPTION[key]} ...`"
    return f"`tandem up --set {key}=...`" if kind is ClusterConfig else f"'{key}' in configs/serve.yaml"


def sentence(found: Sequence[str], name: str) -> str:
    """`did you mean A or B?`, and what is to be known of a foreign name."""
    notes = foreign_names.by_name(foreign_names.DIFFERENCES if found else foreign_names.NOTES)
    guess = [f"did you mean {' or '.join(found[:3])}?"] if found else []
    return " ".join([*guess, *notes.get(squash(_leaf(name)), ())])


def known_keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a configuration type, leaves only."""
    keys = []
    for name, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys += known_keys(nested, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _of_its_section(name: str, found: Iterable[str]) -> list[str]:
    """Without those of other sections, if one is of the section that was named."""
    found, section = [*dict.fromkeys(found)], name.rpartition(".")[0]
    return [each for each in found if each.rpartition(".")[0] == section] or found
