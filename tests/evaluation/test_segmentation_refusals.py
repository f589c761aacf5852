"""What `segmentation train` and `evaluate` refuse: leaks, wrong options, folders of others, damaged models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning", reason="of the extra [evaluate]")
pytest.importorskip("segmentation_models_pytorch", reason="of the extra [evaluate]")
pytest.importorskip("torchvision", reason="of the extra [evaluate]", exc_type=ImportError)

from evaluation.segmentation.record import read_record
from imaging.errors import InputError
from imaging.images import write_png
from tests.evaluation.segmented import (
    FEW,
    QUICK,
    blobs,
    evaluate,
    train,
    write_labelled,
    write_made,
    write_set,
)


def test_in_silico_images_of_the_validation_are_left_out_or_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origins = [(f"images/{s}-0.png", source / "images" / f"{s}-0.png", s) for s in ("s1", "s2")]
    made = write_made(tmp_path / "made", origins)
    given = ("--synthetic", str(made), "--steps", "4", "--validate-every", "2")
    assert train(source, tmp_path / "good", *given, "--real-share", "0.25") == 0
    record = json.loads((tmp_path / "good" / "training.json").read_text())
    assert (record["real"], record["synthetic"]) == (8, 2)
    assert "25 % of the windows real" in capsys.readouterr().err
    # One of the two slides is drawn for validation, and what was made from it goes.
    assert train(source, tmp_path / "drawn", *given, "--validation", "0.5") == 0
    assert "1 of 2 in-silico images are left out" in capsys.readouterr().err
    assert json.loads((tmp_path / "drawn" / "training.json").read_text())["synthetic"] == 1
    # One that is doubtful all over teaches nothing.
    write_png(made / "masks_trusted" / "m0.png", np.full((48, 48), 255, dtype=np.uint8))
    assert train(source, tmp_path / "doubtful", *given) == 0
    assert "1 in-silico images are doubtful all over and left out" in capsys.readouterr().err
    assert json.loads((tmp_path / "doubtful" / "training.json").read_text())["synthetic"] == 1
    # A split that the data themselves name is not to be known in any way.
    leaking = write_made(tmp_path / "leaking", [("elsewhere.png", source / "images" / "s3-0.png", "s9")])
    assert train(source, tmp_path / "bad", "--synthetic", str(leaking), *FEW) == 2
    assert "made from elsewhere.png, and images/s3-0.png of the validation" in capsys.readouterr().err
    leaking = write_made(tmp_path / "test", [("x.png", source / "images" / "s1-0.png", "s4")])
    assert train(source, tmp_path / "bad", "--synthetic", str(leaking), *FEW) == 2
    assert "slide s4" in capsys.readouterr().err
    assert not (tmp_path / "bad" / "model.safetensors").exists()


def test_slides_and_images_in_two_splits_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_set(tmp_path / "slides", {"s1": ("train", 3), "s2": ("val", 2)})
    text = (source / "manifest.csv").read_text()
    (source / "manifest.csv").write_text(text.replace("s1-2.png,train", "s1-2.png,val"))
    assert train(source, tmp_path / "out", *FEW) == 2
    assert "slide s1" in capsys.readouterr().err
    (source / "manifest.csv").write_text(text)
    (source / "images" / "s2-0.png").write_bytes((source / "images" / "s1-0.png").read_bytes())
    assert train(source, tmp_path / "out", *FEW) == 2
    assert "the same image file" in capsys.readouterr().err


def test_a_model_is_not_judged_on_what_it_knows(
    model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, said in (("train", "is trained on"), ("val", "chose the model")):
        assert evaluate(source, tmp_path / "out", "--model", str(model), "--split", split) == 2
        assert said in capsys.readouterr().err
    other = tmp_path / "other"
    write_labelled(other, "x.png", blobs(1), 1)
    (other / "images" / "x.png").write_bytes((source / "images" / "s1-0.png").read_bytes())
    assert evaluate(other, tmp_path / "out", "--model", str(model)) == 2
    assert "the same image file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


REFUSALS = {
    "size": (("--size", "50"), "--size 50: must be a multiple of 32"),
    "encoder": (("--encoder", "resnet9000"), "--encoder list prints all"),
    "split": (("--split", "nothing"), "no such split"),
    "validation": (("--validation", "1.5"), "give a share between 0 and 1"),
    "own": (("--validation", "train"), "--validation train"),
    "ratio": (("--real-share", "0.5"), "no in-silico images"),
    "classes": (("--classes", "a=0,b=1"), "has no class"),
    "one": (("--classes", "a=0,ignore=255"), "one class alone"),
    "devices": (("--devices", "3"), "must be a multiple of the 3 --devices"),
    "weights": (("--encoder-weights", "/nowhere/x.safetensors"), "no such file"),
    "synthetic": (("--synthetic", "."), ""),
    "nan": (("--learning-rate", "nan"), "--learning-rate"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)
    words, said = REFUSALS[name]
    assert train(source, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "training.json").exists()


def test_one_slide_alone_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_set(tmp_path / "x", {"s1": ("", 3)})
    assert train(source, tmp_path / "out") == 2
    assert "all images are of one slide, s1" in capsys.readouterr().err


def test_folders_of_others_are_left_alone(model: Path, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    assert train(source, mine, *FEW) == 2
    assert evaluate(source, mine, "--model", str(model)) == 2
    assert train(source, source / "inside", *FEW) == 2
    assert train(source, model, *FEW, "--seed", "5") == 2
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_a_finished_training_is_not_begun_again(model: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert train(source, model, *FEW) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def damaged_record(text: str) -> list[str]:
    """A training's record, damaged in many ways."""
    content = json.loads(text)
    result = ["", "{", "[]", "null", "1e999", text[:-30], "[" * 100_000, '{"program": NaN}']
    for key in ("classes", "settings", "samples", "steps", "best_step", "dice", "model_sha256", "split", "real"):
        for value in (None, -1, 10**30, "x\x1b", [], {}, 1e400, True):
            if (key, value) != ("split", "x\x1b"):  # any text is one
                result.append(json.dumps({**content, key: value}))
        result.append(json.dumps({other: each for other, each in content.items() if other != key}))
    for size in (0, 33, 2**40, "64"):
        result.append(json.dumps({**content, "settings": {**content["settings"], "size": size}}))
    result.append(json.dumps({**content, "samples": {"training": [{"name": 3}], "validation": []}}))
    result.append(json.dumps({**content, "samples": {"training": [{"evil": "x"}], "validation": []}}))
    return result


def test_damaged_models_are_refused_in_one_line(
    model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    text = (model / "training.json").read_text()
    weights = (model / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights)
    for damage in damaged_record(text):
        (copy / "training.json").write_text(damage)
        with pytest.raises(InputError) as caught:
            read_record(copy)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 600
    (copy / "training.json").unlink()
    os.mkfifo(copy / "training.json")
    with pytest.raises(InputError, match="no model"):
        read_record(copy)
    (copy / "training.json").unlink()
    (copy / "training.json").write_text(text)
    assert read_record(copy).encoder == QUICK[1]
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert evaluate(source, tmp_path / "out", "--model", str(copy)) == 2
    assert "not the weights that its training.json tells of" in capsys.readouterr().err
    assert evaluate(source, tmp_path / "out", "--model", str(tmp_path / "nothing")) == 2
    assert "no model" in capsys.readouterr().err
    assert evaluate(source, tmp_path / "out") == 2
