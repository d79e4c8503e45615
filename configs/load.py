"""From YAML and `--set a.b=c` to a validated configuration, or a ConfigError that names key, place and what fits."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from configs import guess, paths
from configs.errors import ConfigError
from configs.schema import ClusterConfig, RunConfig, ServeConfig

Config = TypeVar("Config", bound=BaseModel)

QUOTED = '"'
"""YAML's style that can write every character."""

SECRET = "notify.urls"
"""The key whose values are in no error."""


def profiles() -> dict[str, Path]:
    """The shipped profiles: name to file."""
    return {path.stem: path for path in sorted(paths.PROFILES.glob("*.yaml"))}


def load_run(profile: str, sets: Iterable[str] = ()) -> RunConfig:
    """A run's configuration from a shipped profile's name or a YAML file, with overrides applied in order.

    Raises ConfigError for an unknown profile, key or value.
    """
    shipped = profiles()
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else shipped.get(profile)
    if path is None:
        raise ConfigError(
            f"no profile named '{profile}'",
            hint=f"{_nearest(profile, shipped)}profiles: {', '.join(shipped)}; or name a .yaml file",
        )
    return load(RunConfig, path, sets, defaults={"profile": path.stem})


def load_cluster(path: Path = paths.CLUSTER_CONFIG, sets: Iterable[str] = ()) -> ClusterConfig:
    """The cluster's configuration. Raises ConfigError as `load` does."""
    return load(ClusterConfig, path, sets)


def load_serve(changed: Mapping[str, Any], path: Path = paths.SERVE_CONFIG) -> ServeConfig:
    """The endpoint's configuration: the application's args in serve.yaml, with changed ones. Raises ConfigError."""
    try:
        arguments = _read(path)["applications"][0]["args"] | dict(changed)
    except (KeyError, IndexError, TypeError):
        raise ConfigError(f"{path} has no applications with args", hint="restore it from the checkout") from None
    return validate(ServeConfig, arguments, source=str(path))


def load(kind: type[Config], path: Path, sets: Iterable[str] = (), defaults: Mapping[str, Any] | None = None) -> Config:
    """Read `path`, apply `--set` texts, validate as `kind`.

    Raises ConfigError naming the key, the file or flag it came from, the allowed values and the nearest match.
    """
    return override(kind, dict(defaults or {}) | _read(path), sets, source=str(path))


def literal(key: str, text: str) -> str:
    """The `--set` text that gives `key` exactly `text`, whatever YAML would make of it."""
    return f"{key}={yaml.dump(text, default_style=QUOTED, width=2**31)}"


def override(kind: type[Config], values: Mapping[str, Any], sets: Iterable[str], *, source: str) -> Config:
    """Apply `--set` texts to plain values, then validate. `values` itself is not changed."""
    values = dict(values)
    flags = {_assign(values, text): text for text in sets}
    return validate(kind, values, source=source, flags=flags)


def validate(
    kind: type[Config], values: Mapping[str, Any], *, source: str, flags: Mapping[str, str] | None = None
) -> Config:
    """Validate plain values as `kind`; `source` names where they came from, `flags` maps keys to their --set text."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(kind, error, source, flags or {}) from None


class _Loader(yaml.SafeLoader):
    """YAML as people mean it, not as version 1.1 has it: `2e-4` is a number and `2026-01-01` is text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="check the path and its permissions") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{line} is not YAML: {problem}", hint="fix the file") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}, not keys and values", hint="write `key: value` lines"
        )
    return values


def _assign(values: dict[str, Any], text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text} is not of the form key=value", hint="for example --set training.max_steps=50")
    *parents, leaf = (key := key.strip()).split(".")
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError:
        parsed = value
    node = values
    for parent in parents:
        child = node.get(parent)
        node[parent] = child = dict(child) if isinstance(child, dict) else {}
        node = child
    node[leaf] = parsed
    return key


EXAMPLES = {"slots": "slots=[{name: a, gpu: 0, roles: [train, serve]}]"}
"""Of keys whose form is hard to guess."""

FEW_KEYS = 8
"""Beside a good guess at what was meant, more than these are not listed."""


def _explain(kind: type[BaseModel], error: ValidationError, source: str, flags: Mapping[str, str]) -> ConfigError:
    problems = error.errors()
    first = max(problems, key=_tells_most)
    others = [problem for problem in problems if problem is not first]
    loc = [part for part in first["loc"] if not _is_union_tag(part)]
    key = ".".join(str(part) for part in loc)
    said = [f"--set {_without_secrets(text)}" for flag, text in flags.items() if not key or _overlap(flag, key)]
    where = ", ".join(said) if key and said else source
    more = f" (and {len(others)} more)" if others and others[0]["type"] == first["type"] else ""
    if first["type"] == "extra_forbidden":
        parent = "".join(f"{part}." for part in loc[:-1])
        siblings = [parent + name for name in _section_of(kind, loc).model_fields]
        near = guess.keys(key, kind, siblings)
        keys = f"keys here: {', '.join(siblings)}" if not near or len(siblings) <= FEW_KEYS else ""
        return ConfigError(f"unknown key '{key}' in {where}{more}", hint=f"{near} {keys}".strip())
    if first["type"] == "missing":
        return ConfigError(f"'{key}' is missing in {where}", hint="add it")
    if first["type"] == "value_error":
        return ConfigError(f"{first['ctx']['error']} ({' '.join([source, *said])})")
    allowed = re.findall(r"'([^']*)'", first["ctx"]["expected"]) if first["type"] == "literal_error" else []
    if key == "notify" or key.startswith(SECRET):
        return ConfigError(f"'{key}' in {where} cannot be what it is{more}", hint=_in_yaml_words(kind, loc, first))
    value = first["input"]
    near = _nearest(str(value), allowed) if isinstance(value, str) else ""
    hint = near + (f"allowed: {', '.join(map(str, allowed))}" if allowed else _in_yaml_words(kind, loc, first))
    return ConfigError(f"'{key}' in {where} cannot be {value!r}", hint=hint)


def _without_secrets(text: str) -> str:
    """A `--set` text that may be shown."""
    key, equals, _ = text.partition("=")
    return f"{key}{equals}..." if key.strip().startswith(SECRET.partition(".")[0]) else text


def _tells_most(problem: Mapping[str, Any]) -> tuple:
    """Of a union's branches the one that got furthest; of a wrong and a missing key the wrong one."""
    word = problem["type"] == "literal_error" and isinstance(problem["input"], str)
    return len(problem["loc"]), problem["type"] == "extra_forbidden", word


def _overlap(flag: str, key: str) -> bool:
    """Whether one of the two dotted keys is the other or lies below it."""
    return f"{key}.".startswith(f"{flag}.") or flag.startswith(f"{key}.")


def _section_of(kind: type[BaseModel], loc: list[int | str]) -> type[BaseModel]:
    """The configuration type that the last part of `loc` is a key of."""
    for part in loc[:-1]:
        if isinstance(part, str):
            kind = _model_in(kind.model_fields[part].annotation)
    return kind


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _in_yaml_words(kind: type[BaseModel], loc: list[int | str], problem: Mapping[str, Any]) -> str:
    """pydantic's complaint without words of Python."""
    if problem["type"] == "model_type":
        return f"it is a section with the keys {', '.join(_section_of(kind, [*loc, '']).model_fields)}"
    words = _decapitalise(problem["msg"]).replace("tuple", "list")
    example = EXAMPLES.get(str(loc[0])) if len(loc) == 1 else None
    return f"{words}, for example --set '{example}'" if example else words


def _is_union_tag(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("literal", "tuple"))


def _nearest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'? " if match else ""


def _decapitalise(text: str) -> str:
    return text[:1].lower() + text[1:]
