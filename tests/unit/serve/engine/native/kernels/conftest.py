"""Kernels run in Triton's interpreter here, which a process has from its first import of triton or never.

So `test_interpreter.py` runs the other modules in a pytest of their own; `TRITON_INTERPRET=1 pytest` of this folder
does the same by hand.
"""

import os
from pathlib import Path

import pytest

OTHERS = ("test_interpreter.py", "test_compilation.py")
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore = [
    path.name for path in Path(__file__).parent.glob("test_*.py") if (path.name in OTHERS) == INTERPRETING
]


@pytest.fixture(autouse=INTERPRETING)
def interpreted_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without inline assembly, which the interpreter lacks (triton 3.6.0), and with few programs, as each is slow."""
    from serve.engine.native.kernels.nf4 import CONFIGS, GATHER

    for key, config in CONFIGS.items():
        monkeypatch.setitem(CONFIGS, key, config._replace(rows=256, decode=GATHER))


@pytest.fixture(autouse=INTERPRETING)
def loops_with_bounds_that_were_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter makes a number of an array of one element (triton 3.6.0), which numpy refuses from 2.4 on."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: interpreter._LangPatchScope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
