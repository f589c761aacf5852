"""Real stained tissue beside the repository, for tests that skip where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("STAINLOOM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def real_data(name: str) -> Path:
    """The folder of a set of real images; the test skips without it."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set STAINLOOM_DATA to a folder that holds {name}/")
    return folder
