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
from evaluation.segmentation.settings import TrainingSettings
from imaging.errors import InputError
from imaging.images import read_image, write_png
from tests.commands.running import ROOT
from tests.evaluation.segmented import (
    CLASSES,
    FEW,
    QUICK,
    blobs,
    evaluate,
    table,
    train,
    write_labelled,
)


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


def test_readers_in_other_processes_change_no_byte(model: Path, source: Path, tmp_path: Path) -> None:
    assert train(source, tmp_path / "read", *FEW, "--workers", "2") == 0
    assert (tmp_path / "read" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
