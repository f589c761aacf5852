"""Annotated images that the tests of the command share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataset.annotated import draw


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs of one slide. Not to be changed."""
    folder = tmp_path_factory.mktemp("source")
    draw(folder, 4)
    return folder
