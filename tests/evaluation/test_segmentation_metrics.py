"""Dice, IoU, their intervals and their table: by hand, and as scikit-learn and torchmetrics have them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import pytest

from evaluation.segmentation.intervals import deviation, interval
from evaluation.segmentation.metrics import FieldScore, agreement
from evaluation.segmentation.record import Record
from evaluation.segmentation.report import Judged, Table, model_names
from tests.evaluation.segmented import CLASSES


def test_dice_and_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
    other = np.array([[0, 1, 1, 1], [0, 0, 1, 1]])
    none, some = agreement(truth, other, 2)
    assert (some.dice, some.iou, some.pixels) == (2 * 4 / (5 + 5), 4 / 6, 5)
    assert (none.dice, none.iou, none.pixels) == (2 * 2 / (3 + 3), 2 / 4, 3)


def test_a_class_that_neither_has_counts_for_nothing_and_one_alone_for_zero() -> None:
    empty, ones = np.zeros((3, 3), np.int64), np.ones((3, 3), np.int64)
    assert [each.dice for each in agreement(empty, empty, 3)] == [1.0, None, None]
    assert [(each.dice, each.iou) for each in agreement(empty, ones, 2)] == [(0.0, 0.0), (0.0, 0.0)]


def test_pixels_ignored_by_either_are_left_out() -> None:
    truth = np.array([[0, 1, 2, 2]])
    assert [each.dice for each in agreement(truth, np.array([[0, 1, 1, 0]]), 2)] == [1.0, 1.0]
    assert [each.dice for each in agreement(np.array([[0, 1, 1, 0]]), truth, 2)] == [1.0, 1.0]
    assert [each.dice for each in agreement(np.full((1, 4), 2), truth, 2)] == [None, None]


def test_maps_of_two_sizes_are_an_error() -> None:
    with pytest.raises(ValueError, match="label maps of"):
        agreement(np.zeros((2, 2), np.int64), np.zeros((2, 3), np.int64), 2)


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is of the extra [evaluate]")
    rng = np.random.default_rng(seed)
    truth, other = rng.integers(0, 5, (2, 17, 23))
    kept = (truth < 4) & (other < 4)
    for label, each in enumerate(agreement(truth, other, 4)):
        mine, theirs = truth[kept] == label, other[kept] == label
        assert each.dice == pytest.approx(metrics.f1_score(mine, theirs), abs=1e-12)
        assert each.iou == pytest.approx(metrics.jaccard_score(mine, theirs), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_torchmetrics(seed: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional", reason="torchmetrics is of the extra [evaluate]")
    import torch

    truth, other = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (2, 17, 23)))
    options = {"num_classes": 3, "average": "none", "task": "multiclass", "ignore_index": 3}
    # It has no label for pixels ignored in a prediction.
    predicted = other.clamp(max=2)
    dice = functional.f1_score(predicted, truth, **options)
    iou = functional.jaccard_index(predicted, truth, **options)
    found = agreement(truth.numpy(), predicted.numpy(), 3)
    assert [each.dice for each in found] == pytest.approx(dice.tolist(), abs=1e-6)
    assert [each.iou for each in found] == pytest.approx(iou.tolist(), abs=1e-6)


def test_intervals_draw_whole_groups() -> None:
    """Twenty fields of one patient tell no more of other patients than one does."""
    rng = np.random.default_rng(0)
    patients = rng.normal(0.7, 0.1, 12)
    alone = interval(patients.tolist(), [f"p{i}" for i in range(12)], 4000, 1)
    many = interval(np.repeat(patients, 20).tolist(), [f"p{i}" for i in np.repeat(range(12), 20)], 4000, 1)
    naive = interval(np.repeat(patients, 20).tolist(), [f"f{i}" for i in range(240)], 4000, 1)
    assert alone is not None
    assert many is not None
    assert naive is not None
    widths = [each.high - each.low for each in (alone, many, naive) if each.low is not None and each.high is not None]
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)
    assert widths[2] < 0.4 * widths[1]
    standard_error = float(patients.std() / math.sqrt(12))
    assert widths[0] == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(300):
        effects = rng.normal(0.6, 0.1, 25)
        values = np.repeat(effects, 3) + rng.normal(0, 0.02, 75)
        found = interval(values.tolist(), [str(each) for each in np.repeat(range(25), 3)], 500, trial)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.6 <= found.high
    # Percentile intervals of 25 groups are a little narrow; 3 standard deviations of 300 trials are 0.04.
    assert 0.88 < inside / 300 < 0.985


def test_one_group_has_no_interval_and_no_values_no_mean() -> None:
    found = interval([0.5, 0.7], ["a", "a"], 100, 0)
    assert found is not None
    assert (found.mean, found.low, found.high, found.groups) == (0.6, None, None, 1)
    assert interval([], [], 100, 0) is None
    assert deviation([1.0]) is None
    assert deviation([1.0, 3.0]) == pytest.approx(math.sqrt(2))


def judged(name: str, values: dict[str, dict[str, float | None]], seed: int = 0) -> Judged:
    """A model whose Dice of class ``x`` is given by annotator and field; fields are patients."""
    made = Record(Path("m"), "resnet18", 32, seed, CLASSES, 10, 20, 3, "train", 100, 50, 0.9, (), ())
    scores = [
        FieldScore(field, f"patient of {field}", annotator, "x", dice, dice, 5)
        for annotator, fields in values.items()
        for field, dice in fields.items()
    ]
    return Judged(name, made, tuple(scores))


def test_the_table_is_mean_and_deviation_of_what_it_says() -> None:
    one = judged("m0", {"a": {"f": 0.5, "g": 0.7, "h": None}, "b": {"f": 0.7, "g": 0.9, "h": None}})
    two = replace(judged("m1", {"a": {"f": 0.6, "g": 0.8}, "b": {"f": 0.6, "g": 0.8}}, seed=1), name="m1")
    rows = {(row.of, row.model, row.annotator): row for row in Table("test", 200, 0).rows([one, two], [])}
    assert len(rows) == 9
    alone = rows["model", "m0", "a"]
    assert (alone.dice, alone.fields, alone.groups, alone.sd_over) == (pytest.approx(0.6), 2, 2, "fields")
    assert alone.dice_sd == pytest.approx(np.std([0.5, 0.7], ddof=1))
    both = rows["model", "m0", "all"]
    assert (both.dice, both.sd_over) == (pytest.approx(0.7), "annotators")
    assert both.dice_sd == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert (both.encoder, both.seed, both.real, both.synthetic, both.split) == ("resnet18", "0", "10", "20", "test")
    seeds = rows["models", "all", "all"]
    assert (seeds.dice, seeds.seed, seeds.sd_over) == (pytest.approx(0.7), "0; 1", "models")
    assert seeds.dice_sd == pytest.approx(0)


def test_models_have_names_of_their_own() -> None:
    paths = [PurePath("x/run"), PurePath("y/run"), PurePath("z/run/model.safetensors"), PurePath("run-2")]
    assert len(set(model_names(paths))) == 4
