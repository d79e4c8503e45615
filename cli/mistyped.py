"""What was meant by an option or a command that does not exist. Called by `cli.edge` when one was typed.

Imports all commands and the configuration's types, which only an error pays for.
"""

from collections.abc import Iterable, Iterator, Sequence

import click
from pydantic import BaseModel

from configs import foreign_names, guess
from configs.foreign_names import by_name, squash
from configs.schema import ClusterConfig, RunConfig, ServeConfig

SETTINGS: dict[str, tuple[type[BaseModel], ...]] = {
    "train": (RunConfig,),
    "data inspect": (RunConfig,),
    "up": (ClusterConfig, ServeConfig),
}
"""Commands that take settings, and of which kinds."""

FEW = 2
"""Commands that are named for an option which is theirs; one that more have says nothing."""


def option(name: str, context: click.Context) -> str:
    """A sentence that says what was meant by option `name` of the context's command; empty if nothing comes to mind."""
    return guess.sentence(next(filter(None, _options(name, context)), []), name)


def command(name: str, context: click.Context) -> str:
    """The same for command `name` of the context's group."""
    return guess.sentence(_quoted(next(filter(None, _commands(name, context)), [])), name)


def _options(name: str, context: click.Context) -> Iterator[list[str]]:
    """Guesses, the surest kind first."""
    own, foreign, settings = _names(context.command), by_name(foreign_names.OPTIONS), by_name(foreign_names.SETTINGS)
    kinds = SETTINGS.get(_path(context), ())
    yield _quoted(guess.exact(name, own, foreign))
    for kind in kinds:
        yield [_setting(key, kind, own) for key in guess.exact(name, guess.known_keys(kind), settings)]
    yield _quoted(guess.near(name, own, foreign))
    yield guess.elsewhere(name, *kinds)
    theirs = [f"tandem {path} {each}" for path, found in _all(context) for each in guess.exact(name, _names(found), {})]
    yield _quoted(theirs) if len(theirs) <= FEW else []
    for kind in kinds:
        yield [_setting(key, kind, own) for key in guess.near(name, guess.known_keys(kind), settings)]


def _commands(name: str, context: click.Context) -> Iterator[list[str]]:
    group, every = _path(context), [path for path, _ in _all(context)]
    own = [path.removeprefix(f"{group} ") for path in every if path.startswith(f"{group} ")] if group else every
    yield guess.exact(name, own, {} if group else by_name(foreign_names.COMMANDS))
    yield [path for path in own if path.partition(" ")[2] == name]
    yield guess.near(name, [path for path in own if " " not in path] if group else _first_words(every), {})
    yield [f"tandem {path}" for path in every if group and path == name]


def _names(command: click.Command) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("--")]


def _setting(key: str, kind: type[BaseModel], own: Sequence[str]) -> str:
    """How a command with these options is given a setting."""
    options = {squash(each): each for each in own} | (guess.OPTION if kind is not RunConfig else {})
    short = options.get(key) or options.get(squash(key.rpartition(".")[2]))
    if short in own:
        return f"'{short}'"
    return guess.how_to_set(key, kind) if kind is ServeConfig else f"'--set {key}=...'"


def _path(context: click.Context) -> str:
    """A command's name without `tandem`; empty for that itself."""
    return f"{_path(context.parent)} {context.info_name}".strip() if context.parent else ""


def _all(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command of the context's program with its name, `runs list` as well as `train`."""
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    for name in root.command.list_commands(root):
        found = root.command.get_command(root, name)
        if isinstance(found, click.Group):
            yield from ((f"{name} {each}", sub) for each, sub in found.commands.items())
        else:
            yield name, found


def _first_words(paths: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(path.partition(" ")[0] for path in paths)]


def _quoted(names: Iterable[str]) -> list[str]:
    return [f"'{name}'" for name in names]
