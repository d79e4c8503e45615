"""What every test shares: a state folder of its own, and libraries that the garbage collector leaves alone."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from configs.paths import Home

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as an actor has it on two cores; spinning threads cost ten times more
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is imported; no test needs the network
settings.register_profile("loaded", deadline=None)  # time says nothing on a machine that others use, too
settings.load_profile("loaded")
for name in ("COLUMNS", "LINES"):  # GNU readline, which pytest's debugger loads, exports both to the parallel workers
    os.environ.pop(name, None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and made now stays until the end, so the garbage collector need not look at it ever again.

    These are about a million objects, and whatever collects garbage often, as Transformers' trainer does, would look at
    all of them each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def home() -> Iterator[Home]:
    """TANDEM_HOME in a fresh temporary folder; short, because Unix sockets below it allow 107 characters.

    Always in force, so that no test ever touches ~/.tandem.
    """
    before = os.environ.get("TANDEM_HOME")
    folder = tempfile.mkdtemp(prefix="td", dir="/tmp")
    os.environ["TANDEM_HOME"] = folder
    yield Home(Path(folder))
    shutil.rmtree(folder, ignore_errors=True)
    if before is None:
        del os.environ["TANDEM_HOME"]
    else:
        os.environ["TANDEM_HOME"] = before


@pytest.fixture
def quick_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Exports are verified with short answers, and by one thread: two of them on shared cores take ten times as long
    for a model of this size."""
    import torch

    from models.lora import verification

    monkeypatch.setattr(verification, "ANSWER_TOKENS", 6)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
