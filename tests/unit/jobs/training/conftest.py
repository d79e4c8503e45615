"""What tests of training share: a model that is changed before it is trained."""

from collections.abc import Callable
from typing import Any

import pytest

from models.base import loading


@pytest.fixture
def tamper(monkeypatch) -> Callable[[Callable[[Any], None]], None]:
    """Have `change(model)` done to every model that is loaded for training."""

    def install(change: Callable[[Any], None]) -> None:
        load = loading.load_for_training

        def loaded(*args, **kwargs):
            model = load(*args, **kwargs)
            change(model)
            return model

        monkeypatch.setattr(loading, "load_for_training", loaded)

    return install
