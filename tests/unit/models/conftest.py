"""The embedded model in the 4-bit layout, whole and to break."""

import shutil
from pathlib import Path

import pytest

from configs.paths import TINY_MODEL
from models.tiny.quantize import quantize


@pytest.fixture(scope="session")
def four_bit(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bases") / "tiny-bnb-4bit"
    quantize(TINY_MODEL, out)
    return out


@pytest.fixture
def damaged(four_bit, tmp_path) -> Path:
    """A copy of the 4-bit model to break."""
    return Path(shutil.copytree(four_bit, tmp_path / "damaged"))
