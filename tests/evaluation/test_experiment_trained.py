"""An experiment with real networks, by the command line; wants the extra `[evaluate]`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("segmentation_models_pytorch", reason="wants the extra [evaluate]", exc_type=ImportError)

import cli
from dataset.procedural import World
from tests.evaluation.experiments import METHOD, world

ROOT = Path(cli.__file__).resolve().parent


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of eight slides. Not to be changed."""
    return world(tmp_path_factory.mktemp("world"))


def arguments(drawn: World, weights: Path, output: Path, *more: str) -> list[str]:
    """Of a small experiment with a filter, which judges by a network of its own."""
    places = [str(drawn.annotated), "--test", str(drawn.test), "--output", str(output), "--weights", str(weights)]
    network = ["--encoder", "tu-test_efficientnet", "--size", "64", "--batch-size", "2", "--steps", "2"]
    design = ["--shares", "0.25,1", "--draws", "1", "--seeds", "1", "--rounds", "1", "--any-headroom"]
    arms = ["--arms", "winter,fidelity", "--main", "winter@1:real", "--bootstrap", "200"]
    method = ["--classes", "epithelium=0,stroma=1", f"--method={METHOD}", "--dtype", "fp32", "--threads", "1"]
    return ["segmentation", "experiment", *places, *network, "--validate-every", "1", *design, *arms, *method, *more]


def test_the_whole_way_with_real_networks(
    drawn: World, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert cli.main(arguments(drawn, tiny_folder, output, "--plan")) == 0
    told = capsys.readouterr().out
    assert "4 are left" in told
    assert "images:    2 of winter" in told
    assert not list(output.glob("runs/*/score.json"))
    assert cli.main(arguments(drawn, tiny_folder, output)) == 0
    assert "verdict:" in capsys.readouterr().out
    scores = {path.parent.name: json.loads(path.read_text()) for path in output.glob("runs/*/score.json")}
    assert len(scores) == 4
    for name, score in scores.items():
        assert len(score["fields"]) == 4 * 3 * 2  # images, annotators, classes
        assert score["steps"] == 2
        # Filters want the networks of annotated images alone; the others are gone.
        assert (output / "runs" / name / "training").exists() == ("real" in name)
    assert scores["s25-d0-fidelity-1-seed0"]["synthetic"] == 1
    before = {path: path.stat().st_mtime_ns for path in output.rglob("score.json")}
    assert cli.main(arguments(drawn, tiny_folder, output, "--report")) == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("score.json")} == before


def test_an_interrupt_leaves_nothing_half_written(drawn: World, tiny_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = [sys.executable, str(ROOT / "cli.py"), *arguments(drawn, tiny_folder, output)]
    process = subprocess.Popen(
        words,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        # A shell's background job ignores interrupts and would hand that down to the program.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(output.glob("runs/*/score.json")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1].startswith("interrupted: ")
    assert not list(output.rglob("*.part"))
    assert cli.main(arguments(drawn, tiny_folder, output)) == 0
    assert (output / "report.html").exists()


def test_an_unknown_encoder_ends_it_in_one_line(
    drawn: World, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(drawn, tiny_folder, tmp_path / "out", "--encoder", "tu-nothing")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "tu-nothing" in error
