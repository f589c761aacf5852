"""An experiment from images to its report: equal steps, no leaks, nothing done twice, planted effects found."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from commands.experiment_requests import ExperimentRequest
from commands.experiment_sets import SWITCHED_OFF, Wanted, method_request, recipes
from commands.experiment_setup import open_bench
from dataset.procedural import World
from evaluation.experiment.arms import DEFAULT, KINDS, Arm
from evaluation.experiment.further import MANIFEST
from evaluation.experiment.plan import read_plan
from evaluation.experiment.runner import further_images
from evaluation.experiment.segmenter import Stepped, Trained
from imaging.errors import InputError
from sampler.presets import PRESETS
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
