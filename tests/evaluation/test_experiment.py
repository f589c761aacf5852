"""An experiment from images to its report: equal steps, no leaks, nothing done twice, planted effects found."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from commands.experiment import Unfinished, run
from commands.experiment_requests import ExperimentRequest
from commands.experiment_sets import SWITCHED_OFF, Wanted, method_request, recipes
from commands.experiment_setup import open_bench
from dataset.procedural import World
from evaluation.experiment.arms import DEFAULT, KINDS, Arm
from evaluation.experiment.further import MANIFEST
from evaluation.experiment.plan import read_plan
from evaluation.experiment.runner import further_images
from evaluation.experiment.segmenter import FieldDice, Stepped, Trained
from evaluation.samples import Sample
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError
from sampler.settings import PRESETS
from sampler.ticks import result_of
from tests.evaluation.experiments import request, told, world
from tests.evaluation.plain_segmenter import Plain

ROOT = Path(cli.__file__).resolve().parent


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of eight slides. Not to be changed."""
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def whole(
    drawn: World, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExperimentRequest, Plain, Sequence[str]]:
    """An experiment with all arms, once: what was asked, what was trained, what was told."""
    output = tmp_path_factory.mktemp("whole") / "out"
    asked = request(drawn, output, arms=DEFAULT, main=None, weights=str(tiny_folder), draws=2, seeds=1)
    plain = Plain()
    return asked, plain, told(asked, plain)


def test_every_arm_is_trained_on_its_own_images_with_as_many_steps(
    whole: tuple[ExperimentRequest, Plain, Sequence[str]],
) -> None:
    asked, plain, _ = whole
    plan = read_plan(asked.output / "plan.json")
    scores = {run.id: json.loads((asked.output / "runs" / run.id / "score.json").read_text()) for run in plan.runs}
    assert {arm.kind for arm in plan.arms} == set(KINDS)
    assert {score["steps"] for score in scores.values()} == {asked.steps}
    assert len(plain.trained) == len(plan.runs)
    for run_ in plan.runs:
        real = 2 if run_.share < 1 else 8
        kept = 0.5 if run_.arm.kind.startswith("fidelity") else 1.0
        score = scores[run_.id]
        assert (score["real"], score["synthetic"]) == (real, int(real * run_.arm.rounds * kept))
        assert (score["seed"], score["arm"]) == (run_.seed, run_.arm.key)


def test_training_knows_nothing_of_other_splits_and_of_other_subsets(
    whole: tuple[ExperimentRequest, Plain, Sequence[str]],
) -> None:
    asked, plain, _ = whole
    plan = read_plan(asked.output / "plan.json")
    subsets = [set(each.train) for each in plan.subsets]
    for training in plain.trained:
        groups = {each.group for each in (*training["real"], *training["synthetic"])}
        assert groups in subsets
        assert not groups & {each.group for each in training["validation"]}
        names = {each.name for each in training["real"]}
        assert {each.origin for each in training["synthetic"]} <= names
    # Label maps, too: targets are those of the subset's own images.
    for manifest in sorted((asked.output / "sets").glob(f"*/winter/{MANIFEST}")):
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        own = set((manifest.parents[1] / "images.txt").read_text().splitlines())
        assert {row["origin"] for row in rows} <= own
        assert {row["target"].replace("masks/", "images/") for row in rows} <= own


def test_all_sets_have_the_same_origins_targets_and_turns(
    whole: tuple[ExperimentRequest, Plain, Sequence[str]],
) -> None:
    asked, _, _ = whole
    sets = asked.output / "sets" / "s25-d1"
    found = {}
    for name in ("copies", "collage", "vae", "winter", "alaluf", "no-swap", "no-adain"):
        rows = [json.loads(line) for line in (sets / name / MANIFEST).read_text().splitlines()]
        found[name] = {
            (row["round"], row["origin"], row["target"].replace("masks/", "images/"), row["dihedral"]) for row in rows
        }
    assert len(found["copies"]) == 4
    assert all(each == found["copies"] for each in found.values())


def test_arms_of_the_method_differ_in_what_they_are_named_for(
    whole: tuple[ExperimentRequest, Plain, Sequence[str]],
) -> None:
    asked, plain, _ = whole
    bench = result_of(open_bench(asked, plain))
    subset = bench.plan.subsets[0]
    made = {name: method_request(asked, bench, Wanted(subset, name), "cpu") for name in SWITCHED_OFF}
    assert made["no-swap"].overrides == {**made["winter"].overrides, "cross_attn_64": None, "cross_attn_32": None}
    assert made["no-adain"].overrides == {**made["winter"].overrides, "adain": "none"}
    demo = dataclasses.replace(asked, weights=str(ROOT / "demo" / "weights"), method="--guidance 2 --adain all")
    baseline = method_request(demo, bench, Wanted(subset, "alaluf"), "cpu")
    # It keeps what makes it the baseline, and has what the weights recommend and what was asked for otherwise.
    assert baseline.preset == "alaluf"
    assert baseline.overrides["fresh_noise"] == 1.0
    assert baseline.overrides["guidance"] == 2.0
    assert not {
        name for name in baseline.overrides if PRESETS["alaluf"].__dict__[name] != PRESETS["winter"].__dict__[name]
    }


def test_the_report_opens_offline_and_says_the_verdict(
    whole: tuple[ExperimentRequest, Plain, Sequence[str]],
) -> None:
    asked, _, lines = whole
    text = (asked.output / "report.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*['"](?!data:)""", text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert text.count("<img") == 4
    assert "<script" not in text
    verdict = json.loads((asked.output / "verdict.json").read_text())
    assert verdict["verdict"] in ("helps", "hurts", "cannot tell")
    assert any(line.startswith("verdict:   ") and "winter@2" in line and "copies@2" in line for line in lines)
    assert sorted(each.name for each in (asked.output / "figures").glob("*.svg")) == [
        *("differences.svg", "images.svg", "rounds-25.svg", "worth.svg")
    ]


def test_every_row_carries_its_seed_and_annotator(
    whole: tuple[ExperimentRequest, Plain, Sequence[str]],
) -> None:
    asked, _, _ = whole
    plan = read_plan(asked.output / "plan.json")
    with (asked.output / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(plan.runs) * 4 * 3 * 2  # images, annotators, classes
    assert {row["seed"] for row in rows} == {"0"}
    assert {row["annotator"] for row in rows} == {"a", "b", "c"}


def test_nothing_is_done_twice(whole: tuple[ExperimentRequest, Plain, Sequence[str]]) -> None:
    asked, _, before = whole
    sets = {path: path.stat().st_mtime_ns for path in (asked.output / "sets").rglob("*") if path.is_file()}
    plain = Plain()
    lines = told(asked, plain)
    assert not plain.trained
    assert [line for line in lines if line.startswith(("verdict", "worth", "noise"))] == [
        line for line in before if line.startswith(("verdict", "worth", "noise"))
    ]
    assert sets == {path: path.stat().st_mtime_ns for path in (asked.output / "sets").rglob("*") if path.is_file()}


def test_filters_keep_what_the_subsets_own_network_likes_and_as_many_by_chance(
    whole: tuple[ExperimentRequest, Plain, Sequence[str]],
) -> None:
    asked, plain, _ = whole
    bench = result_of(open_bench(asked, plain))
    for run_ in bench.plan.runs:
        if run_.arm.kind != "fidelity":
            continue
        real = bench.training_images(bench.plan.subset_of(run_))
        made = further_images(bench, dataclasses.replace(run_, arm=Arm("winter", 2)), real)
        model = asked.output / "runs" / dataclasses.replace(run_, arm=Arm("real", 0)).id / "training" / "model.json"
        dice: dict[str, list[float]] = {}
        plain_masks = [dataclasses.replace(each, trusted=None) for each in made]
        for field in plain.judge(model, plain_masks, bench.classes, {}):
            dice.setdefault(field.sample, []).append(1.0 if field.dice is None else field.dice)
        best = sorted(dice, key=lambda name: (-float(np.mean(dice[name])), name))[:2]
        assert {each.name for each in further_images(bench, run_, real)} == set(best)
        by_chance = further_images(bench, dataclasses.replace(run_, arm=Arm("fidelity-random", 2)), real)
        assert len(by_chance) == 2


def test_recipes_are_those_of_the_planned_subset_alone(drawn: World, tmp_path: Path) -> None:
    asked = request(drawn, tmp_path / "out")
    bench = result_of(open_bench(asked, Plain()))
    for subset in bench.plan.subsets[:2]:
        found = result_of(recipes(asked, bench, subset))
        names = {each.name for each in bench.training_images(subset)}
        assert {each.origin for each in found} == names
        assert {each.target for each in found} <= names
        assert len(found) == 2 * len(names)


def test_no_headroom_stops_it_before_anything_is_made(drawn: World, tmp_path: Path) -> None:
    asked = request(drawn, tmp_path / "out", any_headroom=False, headroom=0.9)
    plain = Plain()
    with pytest.raises(InputError, match="less than `headroom` 0.9"):
        told(asked, plain)
    assert {len(each["synthetic"]) for each in plain.trained} == {0}
    assert not list((asked.output / "sets").rglob(MANIFEST))
    # What was trained counts when it is asked to go on.
    again = Plain()
    told(dataclasses.replace(asked, any_headroom=True), again)
    assert {len(each["synthetic"]) > 0 for each in again.trained} == {True}


def test_the_plan_is_there_before_the_first_training(drawn: World, tmp_path: Path) -> None:
    asked = request(drawn, tmp_path / "out", arms="copies", main="copies@2:real")
    seen: list[bool] = []

    class Watching(Plain):
        def train(self, *arguments: Any, **more: Any) -> Generator[Stepped | None, None, Trained]:
            seen.append((asked.output / "plan.json").exists())
            return super().train(*arguments, **more)

    told(asked, Watching())
    assert seen
    assert all(seen)


@dataclass
class Planted:
    """A model that needs no images: its Dice is a base, an effect of the arm, and chance of subset and slide."""

    effect: float
    key: int

    def train(
        self,
        real: Sequence[Sample],
        synthetic: Sequence[Sample],
        validation: Sequence[Sample],
        classes: ClassMap,
        options: Mapping[str, Any],
        folder: Path,
    ) -> Generator[Stepped | None, None, Trained]:
        """Remember what decides the Dice."""
        folder.mkdir(parents=True, exist_ok=True)
        of_collages = any("collage" in each.image.parts for each in synthetic)
        arm = "collage" if of_collages else "copies" if synthetic else "real"
        model = folder / "model.json"
        model.write_text(json.dumps([arm, sorted({each.group for each in real}), options["seed"], len(real)]))
        yield None
        return Trained(model, options["steps"], 0.5)

    def judge(
        self, model: Path, samples: Sequence[Sample], classes: ClassMap, options: Mapping[str, Any]
    ) -> Iterator[FieldDice]:
        """The planted numbers."""
        arm, groups, seed, count = json.loads(model.read_text())

        def chance(deviation: float, *what: object) -> float:
            number = abs(hash_of((self.key, *what)))
            return deviation * float(np.random.default_rng(number).standard_normal())

        base = 0.6 + 0.02 * count + chance(0.03, groups) + chance(0.01, arm, groups, seed)
        base += (arm == "collage") * (self.effect + chance(0.01, "interaction", groups))
        for each in samples:
            own = chance(0.05, each.group) + (arm == "collage") * chance(0.02, "slide", each.group)
            for annotator, _ in each.masks:
                for name in classes.names:
                    yield FieldDice(each.name, each.group, annotator, name, min(1.0, max(0.0, base + own)))


def hash_of(content: object) -> int:
    """The same in every process."""
    import hashlib

    return int(hashlib.sha256(repr(content).encode()).hexdigest()[:15], 16)


@pytest.mark.parametrize(("effect", "word"), [(0.12, "helps"), (-0.12, "hurts")])
def test_a_planted_effect_is_found_by_the_whole_command(drawn: World, tmp_path: Path, effect: float, word: str) -> None:
    words = []
    for key in range(4):
        asked = request(drawn, tmp_path / str(key), draws=4)
        told(asked, Planted(effect, key))
        words.append(json.loads((asked.output / "verdict.json").read_text())["verdict"])
    assert words.count(word) >= 3
    assert set(words) <= {word, "cannot tell"}


def test_no_effect_is_not_called_one_by_the_whole_command(drawn: World, tmp_path: Path) -> None:
    words = []
    for key in range(4):
        asked = request(drawn, tmp_path / str(key), draws=4)
        lines = told(asked, Planted(0.0, key))
        words.append(json.loads((asked.output / "verdict.json").read_text())["verdict"])
        verdict = next(line for line in lines if line.startswith("verdict"))
        assert words[-1] != "cannot tell" or "would tell a difference of 0.02" in verdict or "takes both" in verdict
    assert words.count("cannot tell") >= 3


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


def test_images_that_changed_since_the_plan_are_refused(tmp_path: Path) -> None:
    drawn = world(tmp_path / "world")
    asked = request(drawn, tmp_path / "out", arms="copies", main="copies@2:real")
    told(asked)
    images = sorted((drawn.annotated.parent / "images").iterdir())
    os.replace(images[0], tmp_path / "kept.png")
    images[0].write_bytes(images[1].read_bytes())
    with pytest.raises(InputError, match="was planned otherwise"):
        told(asked)


def test_leaks_between_splits_are_refused_before_any_training(tmp_path: Path) -> None:
    drawn = world(tmp_path / "world")
    manifest = drawn.annotated if drawn.annotated.is_file() else drawn.annotated / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[-1]["slide_id"] = rows[0]["slide_id"]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = request(drawn, tmp_path / "out")
    plain = Plain()
    with pytest.raises(ProblemsError) as error:
        told(asked, plain)
    assert "slide000 is in several splits" in error.value.problems[0]
    assert not plain.trained
    assert not (asked.output / "plan.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": "0.1,2"}, "`shares`"),
        ({"shares": "x"}, "`shares`"),
        ({"shares": "1", "expand": None}, "`expand`"),
        ({"expand": "0.3"}, "`expand`"),
        ({"arms": "copies,nothing"}, "`arms`"),
        ({"main": "copies@2:winter@2"}, "`main`"),
        ({"score": "tumour"}, "`score` tumour"),
        ({"arms": "winter", "main": None, "method": "--steps x"}, "--steps x"),
        ({"arms": "winter", "main": None, "method": "--nothing"}, "`method`"),
        ({"arms": "winter", "main": None, "method": "'"}, "`method`"),
        ({"shard": "3/2"}, "`shard`"),
        ({"plan": True, "report": True}, "one of them"),
        ({"input": None}, "which images"),
        ({"demo": True}, "not both"),
        ({"learning_rate": float("nan")}, "`learning_rate`"),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_one_line(
    drawn: World, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        told(request(drawn, tmp_path / "out", **change))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("score.json"))


def test_folders_of_other_things_are_left_alone(drawn: World, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no experiment"):
        told(request(drawn, tmp_path))
    with pytest.raises(InputError, match="must not lie among the inputs"):
        told(request(drawn, drawn.test / "out"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "x"}', b"\xff\xfe", b'{"fields": 1}', b"[" * 100_000])
def test_damaged_scores_are_made_again(drawn: World, tmp_path: Path, content: bytes) -> None:
    asked = request(drawn, tmp_path / "out", arms="copies", main="copies@2:real", seeds=1)
    told(asked)
    path = next(iter(sorted(asked.output.glob("runs/*copies*/score.json"))))
    path.write_bytes(content)
    plain = Plain()
    told(asked, plain)
    assert len(plain.trained) == 1
    assert json.loads(path.read_text())["id"] == path.parent.name


def test_a_score_whose_fields_are_damaged_is_told(drawn: World, tmp_path: Path) -> None:
    asked = request(drawn, tmp_path / "out", arms="copies", main="copies@2:real", seeds=1)
    told(asked)
    path = next(iter(sorted(asked.output.glob("runs/*copies*/score.json"))))
    content = json.loads(path.read_text())
    for fields in ([], [1], [{**content["fields"][0], "dice": 7.0}], [{**content["fields"][0], "dice": "x"}]):
        path.write_text(json.dumps({**content, "fields": fields}))
        with pytest.raises(InputError, match=path.parent.name):
            told(asked)


def test_the_command_line_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["segmentation", "experiment", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
