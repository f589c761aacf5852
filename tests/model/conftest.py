"""Checkpoints that the loading tests share, written once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.tokenizer import Tokenizer
from tests.model.checkpoints import SMALL, copy_folder, expected, their_modules, write_folder
from tests.model.originals import single_file_tensors


@pytest.fixture(scope="session")
def theirs() -> SimpleNamespace:
    """The libraries' own small modules, whose weights the checkpoints hold."""
    return their_modules()


@pytest.fixture(scope="session")
def written(theirs: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder. Not to be changed."""
    return write_folder(tmp_path_factory.mktemp("written") / "small", theirs)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A diffusers folder of the test's own."""
    return copy_folder(written, tmp_path / "small")


@pytest.fixture(scope="session")
def single(theirs: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file in the original layout. Not to be changed."""
    path = tmp_path_factory.mktemp("single") / "small.safetensors"
    parts = {part: expected(theirs, part) for part in ("unet", "vae", "text_encoder")}
    save_file(single_file_tensors(SMALL, parts), path)
    return path


@pytest.fixture
def tensors(single: Path) -> dict[str, Tensor]:
    """The tensors of that single file, the test's own."""
    return load_file(single)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The one that every model has."""
    return Tokenizer()


@pytest.fixture
def one_tokenizer(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table takes longer to read than most refusals."""
    monkeypatch.setattr("model.checkpoint.load.Tokenizer", lambda: tokenizer)


@pytest.fixture
def at_once() -> Iterator[None]:
    """What hangs is ended."""
    signal.alarm(30)
    yield
    signal.alarm(0)
