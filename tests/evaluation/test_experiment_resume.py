"""Experiments go on where they ended, however that was, and are shared by processes; nothing is done twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import cli
from commands.experiment import Unfinished, run
from dataset.procedural import World
from evaluation.experiment.plan import read_plan
from evaluation.experiment.segmenter import Stepped, Trained
from imaging.errors import InputError
from tests.evaluation.experiments import request, told, world
from tests.evaluation.plain_segmenter import Plain

ROOT = Path(cli.__file__).resolve().parent


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of eight slides. Not to be changed."""
    return world(tmp_path_factory.mktemp("world"))


SCRIPT = """
import sys, time
from pathlib import Path
from dataset.procedural import World
from tests.evaluation.experiments import request, told
from tests.evaluation.plain_segmenter import Plain

class Slow(Plain):
    def train(self, real, synthetic, validation, classes, options, folder):
        with open(sys.argv[4], "a") as log:
            log.write(folder.parent.name + chr(10))
        time.sleep(0.05)
        return (yield from super().train(real, synthetic, validation, classes, options, folder))

told(request(World(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]), draws=2, seeds=2), Slow())
"""


def start(drawn: World, output: Path, log: Path) -> subprocess.Popen[bytes]:
    """The quick experiment in a process of its own, which writes down every training that it begins."""
    arguments = [str(path) for path in (drawn.annotated, drawn.test, output, log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=environment, stderr=subprocess.PIPE)


def test_a_killed_experiment_goes_on_and_comes_to_the_same(drawn: World, tmp_path: Path) -> None:
    output, log = tmp_path / "killed", tmp_path / "log"
    process = start(drawn, output, log)
    while not (log.exists() and len(log.read_text().splitlines()) >= 3) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {path.parent.name for path in output.glob("runs/*/score.json")}
    assert finished
    begun = len(log.read_text().splitlines())
    asked = request(drawn, output)
    plain = Plain()
    told(asked, plain)
    total = len(read_plan(output / "plan.json").runs)
    assert len(plain.trained) == total - len(finished)
    assert begun < total
    straight = request(drawn, tmp_path / "straight")
    told(straight, Plain())
    for name in ("results.csv", "differences.csv", "verdict.json"):
        assert (output / name).read_bytes() == (straight.output / name).read_bytes()


def test_two_processes_share_the_work_and_do_nothing_twice(drawn: World, tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    both = [start(drawn, output, log) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    begun = log.read_text().splitlines()
    assert len(begun) == len(set(begun)) == len(read_plan(output / "plan.json").runs)
    assert (output / "report.html").exists()


def test_a_training_that_fails_is_told_and_tried_again(drawn: World, tmp_path: Path) -> None:
    asked = request(drawn, tmp_path / "out", arms="copies", main="copies@2:real")

    class Failing(Plain):
        def train(self, real: Any, synthetic: Any, *more: Any) -> Generator[Stepped | None, None, Trained]:
            if synthetic:
                raise RuntimeError("no memory\nleft")
            return (yield from super().train(real, synthetic, *more))

    events = list(run(asked, Failing()))
    assert Unfinished(4) in events
    notes = [event.text for event in events if hasattr(event, "text")]
    assert sum("failed: no memory left" in note for note in notes) == 4
    assert any(note.startswith("verdict:   none yet") for note in notes)
    plain = Plain()
    told(asked, plain)
    assert len(plain.trained) == 4
    assert json.loads((asked.output / "verdict.json").read_text())["verdict"] is not None


def test_further_arms_come_later_and_are_marked(drawn: World, tmp_path: Path) -> None:
    asked = request(drawn, tmp_path / "out", arms="copies", main="copies@2:real", rounds="1,2")
    told(asked)
    plain = Plain()
    lines = told(dataclasses.replace(asked, arms="copies,collage"), plain)
    assert len(plain.trained) == 4
    assert any("added to the plan after it was first written: arm collage@2" in line for line in lines)
    assert "arm collage@2" in (asked.output / "report.html").read_text()
    with pytest.raises(InputError, match="steps 30, not 31"):
        told(dataclasses.replace(asked, steps=31))


@pytest.mark.slow
def test_rays_workers_come_to_the_same(drawn: World, tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    more: dict[str, Any] = {"arms": "copies,winter", "main": None, "weights": str(tiny_folder), "seeds": 1}
    told(request(drawn, tmp_path / "ray", ray="local", **more))
    told(request(drawn, tmp_path / "alone", **more))
    for name in ("results.csv", "verdict.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
