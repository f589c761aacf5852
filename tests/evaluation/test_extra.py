"""Without the libraries of the extra, the commands that want them say what to install."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import cli
from evaluation.extra import missing_extra


def test_a_missing_library_is_named_with_its_cure() -> None:
    said = str(missing_extra(ModuleNotFoundError("No module named 'timm.layers'", name="timm.layers")))
    assert "timm" in said
    assert "pip install" in said
    assert "nms" in str(missing_extra(RuntimeError("operator torchvision::nms does not exist\nmore")))


def test_faults_of_our_own_are_not_taken_for_missing_libraries() -> None:
    with pytest.raises(ModuleNotFoundError):
        missing_extra(ModuleNotFoundError("No module named 'evaluation.nothing'", name="evaluation.nothing"))


@pytest.mark.skipif(importlib.util.find_spec("lightning") is not None, reason="the extra [evaluate] is installed")
@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_the_command_says_what_to_install(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["segmentation", action, str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'stainloom[evaluate]'" in error
    assert not (tmp_path / "out").exists()
