"""Programs in a pid namespace of their own, as a container has one: their numbers begin at 1 again."""

import functools
import os
import subprocess
import sys

import pytest

_UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def contained(program: str, *arguments: str, **environment: str) -> list[str]:
    """The command that runs a Python program so, with more environment; the test is skipped where this is forbidden."""
    command = _UNSHARE if os.geteuid() == 0 else [*_UNSHARE, "--map-root-user"]
    if problem := _problem(tuple(command)):
        pytest.skip(f"no pid namespaces here: {problem}")
    variables = [f"{name}={value}" for name, value in environment.items()]
    return [*command, "env", *variables, sys.executable, "-c", program, *arguments]


@functools.cache
def _problem(command: tuple[str, ...]) -> str:
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    return tried.stderr if tried.returncode else ""
