"""`segmentation train` and `evaluate`: what they write, refuse, and go on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning", reason="of the extra [evaluate]")
pytest.importorskip("segmentation_models_pytorch", reason="of the extra [evaluate]")
pytest.importorskip("torchvision", reason="of the extra [evaluate]", exc_type=ImportError)
import torch

from commands.samples import read_samples
from evaluation.segmentation import training
from evaluation.segmentation.course import Validated
from evaluation.segmentation.record import read_record
from evaluation.segmentation.settings import TrainingSettings
from imaging.errors import InputError
from imaging.images import read_image, write_png
from tests.commands.running import ROOT
from tests.evaluation.segmented import (
    CLASSES,
    QUICK,
    blobs,
    evaluate,
    table,
    train,
    write_labelled,
    write_made,
    write_set,
)

SLIDES = {"s1": ("train", 4), "s2": ("train", 4), "s3": ("val", 3), "s4": ("test", 2), "s5": ("test", 2)}
FEW = ("--steps", "60", "--validate-every", "20", "--learning-rate", "0.005")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of five slides in three splits. Not to be changed."""
    return write_set(tmp_path_factory.mktemp("source"), SLIDES)


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model. Not to be changed."""
    output = tmp_path_factory.mktemp("models") / "one"
    assert train(source, output, *FEW) == 0
    return output


def test_training_leaves_a_model_that_has_learnt_and_says_how(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == {
        "model.safetensors", "training.json", "history.csv", "identity.json"
    }  # fmt: skip
    record = json.loads((model / "training.json").read_text())
    assert (record["real"], record["synthetic"], record["validation"], record["split"]) == (8, 0, 3, "train")
    assert record["settings"]["betas"] == [0.9, 0.99]
    assert record["stopped_by"] == "steps"
    assert {each["slide"] for each in record["samples"]["training"]} == {"s1", "s2"}
    history = table(model / "history.csv")
    assert [row["step"] for row in history] == ["20", "40", "60"]
    assert float(history[-1]["loss"]) < 0.6 * float(history[0]["loss"])
    assert record["dice"] > 0.7


def test_evaluation_writes_tables_predictions_and_overlays(model: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "judged"
    assert evaluate(source, output, "--model", str(model), "--bootstrap", "200") == 0
    fields = table(output / "fields.csv")
    assert len(fields) == 4 * 2
    assert {row["group"] for row in fields} == {"s4", "s5"}
    rows = {row["class_name"]: row for row in table(output / "summary.csv")}
    assert set(rows) == {"class 0", "class 1"}
    row = rows["class 1"]
    scores = [float(each["dice"]) for each in fields if each["class_name"] == "class 1"]
    assert float(row["dice"]) == pytest.approx(np.mean(scores), abs=2e-6)
    assert float(row["dice_sd"]) == pytest.approx(np.std(scores, ddof=1), abs=2e-6)
    assert float(row["dice_low"]) <= float(row["dice"]) <= float(row["dice_high"])
    assert (row["split"], row["real"], row["fields"], row["groups"]) == ("test", "8", "4", "2")
    assert (row["encoder"], row["seed"]) == ("tu-mobilenetv3_small_050", "0")
    assert float(row["dice"]) > 0.6
    assert json.loads((output / "summary.json").read_text())["rows"][1]["dice"] == pytest.approx(
        np.mean(scores), abs=1e-6
    )
    prediction = read_image(output / "predictions" / "one" / "s4-0.png")
    assert set(np.unique(prediction)) <= {0, 1}
    assert read_image(output / "overlays" / "one" / "s4-0.png").shape == (48, 4 * 48 + 3 * 8, 3)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_several_annotators_and_models_are_set_beside_each_other(model: Path, tmp_path: Path) -> None:
    fields = tmp_path / "fields"
    for number in range(3):
        labels = blobs(500 + number, side=70)
        write_labelled(fields, f"f{number}.png", labels, 500 + number)
        for name, shift in (("a", 0), ("b", 2), ("c", 4)):
            (fields / f"masks_{name}").mkdir(exist_ok=True)
            write_png(fields / f"masks_{name}" / f"f{number}.png", np.roll(labels, shift, 0).astype(np.uint8) * 255)
    (fields / "masks").rename(tmp_path / "masks")
    output = tmp_path / "judged"
    assert evaluate(fields, output, "--model", str(model), str(model), "--bootstrap", "100") == 0
    rows = {(r["of"], r["model"], r["annotator"], r["class_name"]): r for r in table(output / "summary.csv")}
    one = [float(rows["model", "one", name, "class 1"]["dice"]) for name in "abc"]
    whole = rows["model", "one", "all", "class 1"]
    assert float(whole["dice"]) == pytest.approx(np.mean(one), abs=2e-6)
    assert float(whole["dice_sd"]) == pytest.approx(np.std(one, ddof=1), abs=2e-6)
    assert float(rows["models", "all", "all", "class 1"]["dice_sd"]) == 0
    ceiling = [float(rows["annotator", *pair, "class 1"]["dice"]) for pair in (("b", "a"), ("c", "a"), ("c", "b"))]
    assert ceiling[0] == pytest.approx(ceiling[2], abs=0.02)
    assert ceiling[1] < ceiling[0] < 1
    assert float(rows["annotator", "all", "all", "class 1"]["dice"]) == pytest.approx(np.mean(ceiling), abs=2e-6)


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


def test_a_killed_training_goes_on_to_the_same_bytes(model: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    words = ["segmentation", "train", str(source), "--output", str(output), *QUICK, *FEW]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads_of(model))}
    process = subprocess.Popen([sys.executable, str(ROOT / "cli.py"), *words], stdout=subprocess.PIPE, env=environment)
    end = time.monotonic() + 300
    while not (output / "work" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "model.safetensors").exists()
    # Memory changes speed alone.
    assert train(source, output, *FEW, "--cache", "0") == 0
    assert (output / "history.csv").read_bytes() == (model / "history.csv").read_bytes()
    assert (output / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def threads_of(model: Path) -> int:
    """Of the training that ``model`` is from."""
    return int(json.loads((model / "training.json").read_text())["threads"])


def test_early_stopping_ends_a_training_and_keeps_its_best(source: Path, tmp_path: Path) -> None:
    """With a rate at which nothing is learnt any more, the first validations are the best ones."""
    words = ("--steps", "400", "--validate-every", "2", "--patience", "2", "--learning-rate", "1")
    assert train(source, tmp_path / "out", *words) == 0
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    history = table(tmp_path / "out" / "history.csv")
    dice = [float(row["dice"]) for row in history]
    assert record["stopped_by"] == "patience"
    assert len(history) < 200
    assert dice.index(max(dice)) == len(dice) - 3
    assert record["best_step"] == int(history[len(dice) - 3]["step"])


def test_three_classes_are_learnt(tmp_path: Path) -> None:
    for split, numbers in (("train", range(6)), ("val", range(6, 8))):
        for number in numbers:
            labels = blobs(number)
            labels[:, :12] = 2
            write_labelled(tmp_path / "data" / split, f"{number}.png", labels, number, values=(0, 1, 2))
    given = ("--classes", "a=0,b=1,c=2,ignore=9")
    assert train(tmp_path / "data", tmp_path / "out", *given, *FEW) == 0
    assert json.loads((tmp_path / "out" / "training.json").read_text())["dice"] > 0.5


def test_an_interrupt_ends_in_order_and_can_be_gone_on_with(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["segmentation", "train", str(source), "--output", str(output), *QUICK, *FEW, "--steps", "100000"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 300
    while not (output / "work" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in error
    assert not list(output.rglob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"\0" * 64, b"PK\x03\x04" + b"x" * 200, None])
def test_a_damaged_checkpoint_is_told_and_nothing_is_executed(
    damage: bytes | None, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    settings = TrainingSettings(encoder=QUICK[1], size=32, batch_size=4, steps=4, validate_every=2, device="cpu")
    samples = read_samples(source).samples
    parts = [tuple(each for each in samples if each.split == split) for split in ("train", "val")]
    for event in training.train(parts[0], (), parts[1], CLASSES, settings, output):
        if isinstance(event, Validated):
            break
    capsys.readouterr()
    checkpoint = output / "work" / "last.ckpt"
    if damage is None:
        torch.save({"callbacks": Evil(tmp_path / "executed")}, checkpoint)
    else:
        checkpoint.write_bytes(damage)
    with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
        list(training.train(parts[0], (), parts[1], CLASSES, settings, output))
    assert not (tmp_path / "executed").exists()


class Evil:
    """What unpickling would execute."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
def test_two_processes_train_together(source: Path, tmp_path: Path) -> None:
    """Over gloo, on the CPU: they learn, and end with one model."""
    words = ["segmentation", "train", str(source), "--output", str(tmp_path / "two"), *QUICK, *FEW, "--devices", "2"]
    done = subprocess.run([sys.executable, str(ROOT / "cli.py"), *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "two" / "training.json").read_text())
    assert record["steps"] == 60
    assert record["dice"] > 0.6
    assert "step 20" in done.stdout
    assert "weights_only" not in done.stderr
