"""A set of labelled images and a model trained on it, for the tests of `segmentation`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.segmented import FEW, SLIDES, train, write_set


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of five slides in three splits. Not to be changed."""
    return write_set(tmp_path_factory.mktemp("source"), SLIDES)


@pytest.fixture(scope="session")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model. Not to be changed."""
    output = tmp_path_factory.mktemp("models") / "one"
    assert train(source, output, *FEW) == 0
    return output
