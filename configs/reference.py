"""Writes docs/configuration.md from the schema: `python -m configs.reference > docs/configuration.md`.

Every table comes from `configs.schema` and the shipped profiles, so the page cannot say anything else than they do; a
test compares the two. Called by people and by that test.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from configs.foreign_names import SETTINGS
from configs.load import load_run, profiles
from configs.schema import ClusterConfig, RunConfig, ServeConfig, Slot

INTRODUCTION = """\
# Configuration

Generated from `configs/schema.py` by `python -m configs.reference > docs/configuration.md`; a test keeps it so.

There are three kinds of configuration. All are checked before anything starts. An unknown key or a bad value is an
error that names the key, where it came from, what is allowed and the nearest match; the names that others have for a
setting are known ([Names elsewhere](#names-elsewhere)).

| configuration | what it describes | where it is written |
|---|---|---|
| [RunConfig](#runconfig) | one training run | a profile in `configs/profiles/`, or a YAML file of your own |
| [ClusterConfig](#clusterconfig) | the machine | `configs/cluster.yaml`, or `tandem up --config FILE` |
| [ServeConfig](#serveconfig) | the chat endpoint | `args` in `configs/serve.yaml` |

`--set KEY=VALUE` overrides one key and may be repeated: `tandem train` takes keys of RunConfig, `tandem up` keys of
ClusterConfig. The value is YAML, so lists and `null` work, and `2e-4` is a number.

```bash
tandem train --profile standard --set training.learning_rate=1e-4 --set data.dataset=my_chats.jsonl --dry-run
tandem train --profile tiny --set "lora.target_modules=[q_proj, v_proj]" --dry-run
tandem up --set http_port=9000 --set stop_grace_s=60
```

`--dataset D` is short for `--set data.dataset=D`, `--mask M` for `--set data.mask=M`, `--max-bad-rows N` for
`--set data.max_bad_rows=N`, `--max-steps N` for `--set training.max_steps=N`, and `tandem up --port N` for
`--set http_port=N`. The resolved configuration of a run is stored with it:
`~/.tandem/runs/RUN/resolved.json`.

`--profile` also takes the path of a YAML file with the keys of RunConfig; keys that are left out have the defaults
below. Its file name becomes the profile's name.

```yaml
# my_profile.yaml
model: {base: unsloth/gpt-oss-20b-unsloth-bnb-4bit, max_seq_length: 2048}
lora: {r: 32, alpha: 64}
data: {dataset: my_chats.jsonl, reasoning_effort: low}
training: {max_steps: 200, learning_rate: 1.0e-4}
```
"""

SLOTS = """\
```yaml
# cluster.yaml
http_port: 8000
slots:
  - {name: "0", gpu: 0, roles: [train]}
  - {name: "1", gpu: 1, roles: [serve]}
```
"""

SERVING = """\
`tandem up` reads `configs/serve.yaml` and sets the port; `--base NAME` changes the base, `--max-context N` the context.
For the other keys edit the file.
"""

ELSEWHERE = """\
## Names elsewhere

What other trainers and servers call these settings. Tandem does not accept the names, but where one is typed or stands
in a file, the error says the key.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION, *_section("RunConfig", RunConfig), *_profiles()]
    parts += [*_section("ClusterConfig", ClusterConfig), "### Slot\n", _meaning(Slot), _table(Slot, "slots[]."), SLOTS]
    parts += [*_section("ServeConfig", ServeConfig), SERVING, ELSEWHERE, _elsewhere()]
    return "\n".join(parts)


def _section(title: str, kind: type[BaseModel]) -> Iterator[str]:
    yield f"## {title}\n"
    yield _meaning(kind)
    flat = [name for name, field in kind.model_fields.items() if not _is_section(field.annotation)]
    if flat:
        yield _table(kind, "", flat)
    for name, field in kind.model_fields.items():
        if _is_section(field.annotation):
            yield f"### {name}\n"
            yield _meaning(field.annotation)
            yield _table(field.annotation, f"{name}.")


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _meaning(kind: type[BaseModel]) -> str:
    return " ".join((kind.__doc__ or "").split()) + "\n"


def _table(kind: type[BaseModel], prefix: str, only: Iterable[str] | None = None) -> str:
    schema, rows = kind.model_json_schema(), []
    for name in only or kind.model_fields:
        about = schema["properties"][name]
        default = "required" if name in schema.get("required", ()) else _value(kind.model_fields[name].default)
        rows.append((f"`{prefix}{name}`", type_of(about), default, about["description"]))
    return _markdown(("key", "type and allowed values", "default", "meaning"), rows)


def type_of(schema: dict[str, Any]) -> str:
    """A property of a JSON schema in words: its type, then what bounds it."""
    if branches := schema.get("anyOf"):
        return " or ".join(type_of(branch) for branch in branches)
    if "enum" in schema or "const" in schema:
        return " \\| ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        least = "at least one of" if schema.get("minItems") else "any of"
        items = schema["items"]
        return f"list, {least} {type_of(items) if {'enum', 'const', 'type'} & items.keys() else '[Slot](#slot)'}"
    if schema.get("type") == "object":
        return "keys and " + type_of(schema["additionalProperties"])
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true \\| false", "null": "`null`"}
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    parts = [f"{word} {_number(schema[key])}" for key, word in bounds.items() if key in schema]
    parts += [f"matching `{schema['pattern']}`"] if "pattern" in schema else []
    return " ".join([words[schema["type"]], *parts])


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _profiles() -> Iterator[str]:
    """What the shipped profiles are for, and every key in which one of them is not the default."""
    yield "## Shipped profiles\n"
    words = [(f"`{name}`", path.read_text().splitlines()[0].lstrip("# ")) for name, path in profiles().items()]
    yield _markdown(("profile", "what it is for"), words)
    yield "Every key in which one of them is not the default:\n"
    settings = {name: dict(_flat(load_run(name).model_dump(exclude={"profile"}))) for name in profiles()}
    default = dict(_flat(RunConfig().model_dump(exclude={"profile"})))
    changed = [key for key in default if any(values[key] != default[key] for values in settings.values())]
    rows = [(f"`{key}`", *(_value(values[key]) for values in settings.values())) for key in changed]
    yield _markdown(("key", *(f"`{name}`" for name in settings)), rows)


def _elsewhere() -> str:
    rows = [(f"`{key}`", ", ".join(f"`{name}`" for name in names.split())) for key, names in SETTINGS.items()]
    return _markdown(("here", "elsewhere"), rows)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
