"""The import line: a room imports only rooms to its right, serve and jobs never each other.

cli -> serve | jobs -> actors -> models -> configs
"""

import ast
import functools
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

from configs.paths import SOURCE

MAY_IMPORT = {
    "configs": set(),
    "models": {"configs"},
    "actors": {"models", "configs"},
    "jobs": {"actors", "models", "configs"},
    "serve": {"actors", "models", "configs"},
    "cli": {"serve", "jobs", "actors", "models", "configs"},
}
HEAVY = {"ray", "torch", "transformers", "trl", "peft", "datasets", "unsloth", "bitsandbytes"}
FILES = [path for room in MAY_IMPORT for path in sorted((SOURCE / room).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def imports(tree: ast.AST) -> list[tuple[int, str, bool]]:
    """(line, dotted module, whether it is `import x`) of every import at or below `tree`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, True) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: rooms are imported by name, not relatively"
            found.append((node.lineno, node.module, False))
    return found


def at_import(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: no function bodies, and nothing that is for type checkers only."""
    kept = []
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kept.append(node)
    for node in kept:
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    return ast.Module(kept, [])


def tops(modules: list[tuple[int, str, bool]]) -> set[str]:
    return {module.partition(".")[0] for _, module, _ in modules}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_rooms_to_its_right(path):
    room = path.relative_to(SOURCE).parts[0]
    allowed = MAY_IMPORT[room] | {room}
    wrong = [
        f"line {line}: {module}"
        for line, module, _ in imports(ast.parse(path.read_text()))
        if module.partition(".")[0] in {*MAY_IMPORT, "tests"} - allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_serve_is_imported_by_its_parts_only(path):
    """`import serve.x` would bind the name that Ray's own `serve` has."""
    wrong = [
        line for line, module, plain in imports(ast.parse(path.read_text())) if plain and module.startswith("serve")
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path).startswith("configs")], ids=name_of)
def test_configs_needs_nothing_but_pydantic_and_yaml(path):
    assert tops(imports(ast.parse(path.read_text()))) <= sys.stdlib_module_names | {"configs", "pydantic", "yaml"}


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path).startswith("models")], ids=name_of)
def test_models_does_not_know_ray(path):
    assert "ray" not in tops(imports(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path).startswith("cli")], ids=name_of)
def test_the_command_line_imports_nothing_heavy_before_it_is_needed(path):
    assert tops(imports(at_import(ast.parse(path.read_text())))) & (HEAVY | {"openai", "fastapi"}) == set()


def test_the_line_is_checked_in_every_room():
    assert {path.relative_to(SOURCE).parts[0] for path in FILES} == set(MAY_IMPORT)
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"tests"}
    assert packages == set(MAY_IMPORT), "a new room needs its place in the line"


MODULES = {name_of(path)[:-3].replace("/", ".").removesuffix(".__init__"): path for path in FILES}
FOLDERS = sorted({path.parent for path in FILES})
FEW_ENTRIES = 14
SEAMS = {"jobs.export"}
"""Short files that stand for themselves: an entrypoint that Ray starts."""
CIRCLES = {("cli/chat", frozenset({"commands.py", "session.py"}))}
"""A chat's commands change its session, and the session looks its commands up."""


@functools.cache
def imported(path: Path) -> set[str]:
    """Our modules that a file imports, wherever in it: `from a import b` is `a.b` where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            dotted = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in dotted}
    return found & set(MODULES)


def entry(folder: Path, path: Path) -> str | None:
    """The entry of `folder` that a file is or lies in; None for a file elsewhere and for the folder's own
    `__init__`."""
    inside = path.parent if path.name == "__init__.py" else path
    return inside.relative_to(folder).parts[0] if inside != folder and folder in inside.parents else None


def circles(folder: Path) -> Iterator[frozenset[str]]:
    needs: dict[str, set[str]] = {}
    for path in FILES:
        if one := entry(folder, path):
            needs.setdefault(one, set()).update(filter(None, (entry(folder, MODULES[name]) for name in imported(path))))
    while True:
        graph = {one: others - {one} for one, others in needs.items()}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]
            yield frozenset(circle)
            for later, earlier in pairwise(circle):
                needs[earlier].discard(later)
        else:
            return


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_entries_of_a_folder_import_each_other_one_way(folder):
    assert [one for one in circles(folder) if (name_of(folder), one) not in CIRCLES] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_shows_few_entries(folder):
    entries = {entry(folder, path) for path in FILES} - {None}
    assert len(entries) <= FEW_ENTRIES


@pytest.mark.parametrize("name", sorted(set(MODULES) - SEAMS))
def test_a_file_of_few_lines_has_more_than_one_user(name):
    path = MODULES[name]
    if path.name == "__init__.py" or len(path.read_text().splitlines()) >= 30:
        return
    assert len([other for other in FILES if name in imported(other)]) > 1


def tree() -> str:
    """Every folder with the first sentence of its docstring, as `docs/architecture.md` shows it."""
    lines = []
    for folder in FOLDERS:
        if not (text := ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))):
            raise AssertionError(f"{name_of(folder)}/__init__.py has no docstring")
        depth = len(folder.relative_to(SOURCE).parts) - 1
        first = text.partition("\n\n")[0].replace("\n", " ")
        lines.append(f"{'    ' * depth}{folder.name}/".ljust(24) + first)
    return "\n".join(lines)


def test_the_architecture_page_shows_every_folder():
    assert tree() in (SOURCE / "docs" / "architecture.md").read_text(), f"the tree is now:\n{tree()}"
