"""Types lead along the main ways: what mypy checks has no `Any` where a type is known, and passes on no keywords.

Mypy itself holds that every parameter and result has a type; `make lint` runs it.
"""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.paths import SOURCE

LISTED = tomllib.loads((SOURCE / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
FILES = [
    file
    for name in LISTED
    for file in ([SOURCE / name] if name.endswith(".py") else sorted((SOURCE / name).rglob("*.py")))
]

UNTYPED = {
    "Ray's and Serve's handles do not know what a call returns": {
        "actors/client.py": {"_ask"},
        "serve/generation/engine_client.py": {"_call"},
    },
    "an answer over HTTP is JSON": {"cli/api.py": {"get", "post", "_send"}},
    "click calls a command with keywords": {"jobs/request.py": {"collected"}},
    "Transformers' callbacks, trainer and cache are called with more than they name": {
        "jobs/training/callback.py": {
            "on_step_begin", "on_pre_optimizer_step", "on_prediction_step", "on_train_begin", "on_step_end", "on_log",
            "on_evaluate", "on_save",
        },
        "jobs/training/probe.py": {"on_step_begin", "on_step_end"},
        "jobs/training/trainers.py": {"training_step", "evaluate"},
        "serve/engine/transformers/rows.py": {"update"},
    },
    "values of any JSON type, compared or walked": {
        "jobs/training/provenance.py": {"_both"},
        "serve/openai/body.py": {"holder"},
        "serve/openai/completions/answer.py": {"lists"},
    },
    "tasks of any result, held until they end": {
        "serve/adapters/swap.py": {"self._tasks"},
        "serve/engine/batching.py": {"self._commands"},
    },
    "FastAPI would make a schema of any other type": {"serve/http/routes/openai.py": {"models", "model"}},
    "a field that is taken whatever it holds, and has no effect": {
        "serve/openai/chat/tools.py": {"cache_control"},
        "serve/openai/fields/answer_format.py": {
            "disable_any_whitespace", "disable_additional_properties", "whitespace_pattern",
        },
    },
}  # fmt: skip
"""What has no better type and why, by file."""


def known(path: Path) -> set[str]:
    return {name for files in UNTYPED.values() for name in files.get(str(path.relative_to(SOURCE)), ())}


def says_any(annotation: ast.expr | None) -> bool:
    """Whether `Any` stands where a type could. JSON's objects are `dict[str, Any]`; a coroutine's first two are of its
    loop."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return says_any(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Name):
        return annotation.id == "Any"
    if isinstance(annotation, ast.Subscript):
        inside = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        match ast.unparse(annotation.value):
            case "dict" | "Mapping" if ast.unparse(annotation.slice) in ("str, Any", "(str, Any)"):
                return False
            case "Coroutine":
                inside = inside[2:]
        return any(map(says_any, inside))
    return (
        any(says_any(each) for each in ast.iter_child_nodes(annotation) if isinstance(each, ast.expr))
        if annotation
        else False
    )


def untyped(tree: ast.Module) -> Iterator[str]:
    """Functions with `Any` or with `**` in their signature, and attributes that are `Any`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = node.args
            given = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *([taken.vararg] if taken.vararg else [])]
            if taken.kwarg or says_any(node.returns) or any(says_any(each.annotation) for each in given):
                yield node.name
        elif isinstance(node, ast.AnnAssign) and says_any(node.annotation):
            yield ast.unparse(node.target)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_main_ways_are_typed_except_where_a_reason_stands(path):
    assert set(untyped(ast.parse(path.read_text()))) == known(path)


def test_every_exception_is_in_a_file_that_is_checked():
    named = {name for files in UNTYPED.values() for name in files}
    assert named <= {str(path.relative_to(SOURCE)) for path in FILES}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a: int, **how): ...", {"f"}),
        ("def f(a: Any) -> int: ...", {"f"}),
        ("def f(a: 'list[Any] | None') -> int: ...", {"f"}),
        ("def f(a: dict[str, Any], b: Coroutine[Any, Any, None]) -> Mapping[str, Any]: ...", set()),
        ("def f(a: dict[Any, int]) -> Callable[[Any], int]: ...", {"f"}),
        ("class A:\n    b: Any = None\n    c: dict[str, list[Any]]", {"b", "c"}),
    ],
)
def test_what_counts_as_untyped(source, found):
    assert set(untyped(ast.parse(source))) == found
