"""The example in each package's docstring is true."""

import ast
import doctest
import shlex

import pytest

from configs.paths import SOURCE
from tests.unit import test_docs
from tests.unit.test_rooms import MAY_IMPORT

PACKAGES = sorted(MAY_IMPORT)


def example(package: str) -> list[str]:
    """The lines below the first paragraph of a package's docstring."""
    text = ast.get_docstring(ast.parse((SOURCE / package / "__init__.py").read_text())) or ""
    return text.partition("\n\n")[2].splitlines()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_a_short_example(package):
    lines = example(package)
    assert 3 <= len(lines) <= 6
    assert any(line.lstrip().startswith((">>> ", "$ ")) for line in lines)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_example_is_true(package):
    lines = example(package)
    shell = [line.strip().removeprefix("$ ") for line in lines if line.lstrip().startswith("$ ")]
    for command in shell:
        test_docs.test_every_command_shown_parses(shlex.split(command))
    found = doctest.DocTestParser().get_doctest("\n".join(lines), {}, package, None, 0)
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    assert outcome.failed == 0, "".join(said)
    assert outcome.attempted or shell
