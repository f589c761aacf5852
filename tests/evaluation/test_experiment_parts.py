"""Subsets that nest, splits that keep slides together, arms, further images, the curve, the plan."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from evaluation.experiment.arms import Arm, parse_arms, parse_comparison, parse_rounds
from evaluation.experiment.curve import monotone, saturation, worth, worth_with_interval
from evaluation.experiment.further import (
    IGNORED,
    Recipe,
    collage,
    make_collages,
    make_copies,
    move_doubts,
    read_set,
    spread,
)
from evaluation.experiment.plan import Plan, Question, extended, plan_json, read_plan
from evaluation.experiment.subsets import Splits, Subset, choose_subsets, leaks, make_splits, stratified_order
from evaluation.samples import Sample, load_image, load_pair, load_trusted
from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.images import write_png
from imaging.turns import DIHEDRAL, turn

CLASSES = ClassMap.parse("epithelium=0,stroma=1,ignore=255")


def samples(count: int, *, split: str = "", slides: int = 0, start: int = 0) -> list[Sample]:
    """Images that are nowhere; of ``slides`` slides, or without any."""
    found = []
    for number in range(start, start + count):
        name = f"{number}.png"
        slide = f"slide{number % slides}" if slides else ""
        found.append(Sample(name, Path(name), (("", Path(name)),), split, slide))
    return found


def shares(of: list[Sample]) -> dict[str, float]:
    return {each.name: (37 * number % 100) / 100 for number, each in enumerate(of)}


def written(root: Path, name: str, labels: np.ndarray, seed: int = 0) -> Sample:
    """A sample whose image has class 0 red and class 1 blue, with noise that tells its pixels apart."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*labels.shape, 3), dtype=np.uint8)
    image[labels == 0, 0] += 180
    image[labels == 1, 2] += 180
    for part, content in (("images", image), ("masks", labels.astype(np.uint8))):
        (root / part).mkdir(parents=True, exist_ok=True)
        write_png(root / part / name, content)
    return Sample(name, root / "images" / name, (("", root / "masks" / name),), "train", f"slide of {name}")


def test_smaller_subsets_lie_within_larger_ones_of_the_same_choice() -> None:
    everything = samples(60, split="train", slides=20)
    splits = Splits(tuple(everything), tuple(samples(12, split="val", start=100)), tuple(samples(9, start=200)))
    values = shares([*splits.train, *splits.validation, *splits.test])
    found = choose_subsets(splits, values, (0.1, 0.5, 1.0), 3, 0)
    by_key = {each.key: each for each in found}
    assert list(by_key) == ["s10-d0", "s10-d1", "s10-d2", "s50-d0", "s50-d1", "s50-d2", "s100-d0"]
    for draw in range(3):
        small, large = by_key[f"s10-d{draw}"], by_key[f"s50-d{draw}"]
        assert (len(small.train), len(large.train)) == (2, 10)
        assert set(small.train) < set(large.train)
        assert set(small.validation) < set(large.validation)
    assert len({each.train for each in found if each.share == 0.1}) == 3
    assert set(by_key["s100-d0"].train) == {each.group for each in everything}


def test_further_choices_leave_the_first_as_they_were() -> None:
    splits = Splits(*(tuple(samples(20, start=start)) for start in (0, 100, 200)))
    values = shares([*splits.train, *splits.validation, *splits.test])
    few, many = (choose_subsets(splits, values, (0.2, 1.0), draws, 5) for draws in (2, 4))
    assert set(few) < set(many)


def test_every_beginning_of_the_validation_order_is_spread_as_the_test_set() -> None:
    values = {str(number): number / 90 for number in range(90)}
    order = stratified_order(values, list(values.values()), "key")
    for count in (3, 6, 30):
        thirds = [sum(third / 3 <= values[name] < (third + 1) / 3 for name in order[:count]) for third in range(3)]
        assert thirds == [count // 3] * 3


def test_splits_are_drawn_by_slides_where_there_are_none() -> None:
    given = samples(40, slides=10)
    splits = make_splits(given, None, shares(given), validation_share=0.2, test_share=0.3, seed=0)
    groups = [{each.group for each in part} for part in (splits.train, splits.validation, splits.test)]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert len(groups[2]) == 3
    assert len(splits.everything) == 40
    assert {each.split for each in splits.test} == {"test"}


def test_splits_that_are_given_stay() -> None:
    given = [*samples(5, split="training"), *samples(3, split="valid", start=10), *samples(2, split="test", start=20)]
    splits = make_splits(given, None, shares(given), validation_share=0.2, test_share=0.3, seed=0)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5, 3, 2]


@pytest.mark.parametrize(
    ("given", "test", "message"),
    [
        ([("fold1", 4)], None, "the split fold1 is none of"),
        ([("train", 4), ("", 2)], None, "without a split"),
        ([("train", 4), ("val", 2)], None, "give a folder with `test`"),
        ([("val", 4), ("test", 2)], None, "nothing to train on"),
        ([("train", 4), ("test", 2)], 2, "give one of the two"),
        ([("", 2)], None, "only 2 slides"),
    ],
)
def test_splits_that_make_no_sense_are_refused(given: list[tuple[str, int]], test: int | None, message: str) -> None:
    found = [
        each for place, (split, count) in enumerate(given) for each in samples(count, split=split, start=10 * place)
    ]
    tests = None if test is None else samples(test, start=500)
    values = shares([*found, *(tests or [])])
    with pytest.raises(InputError, match=message):
        make_splits(found, tests, values, validation_share=0.2, test_share=0.3, seed=0)


def test_leaks_are_told_by_slide_patient_and_image() -> None:
    train = (Sample("a", Path("a"), (), "train", "s1", "p1"), Sample("b", Path("b"), (), "train", "s2"))
    test = (
        Sample("c", Path("c"), (), "test", "s1"),
        Sample("d", Path("d"), (), "test", "s3", "p1"),
        Sample("e", Path("e"), (), "test", "s4"),
    )
    found = leaks(Splits(train, (), test), {"a": "1", "b": "2", "c": "3", "d": "4", "e": "2"})
    assert len(found) == 3
    assert "slide s1" in found[0]
    assert "patient p1" in found[1]
    assert "the same image is in several splits (b in train, e in test)" in found[2]
    assert not leaks(Splits(train, (), ()), {})


def test_arms_have_the_last_round_or_all_of_them() -> None:
    arms = parse_arms("copies, winter,alaluf@1", (1, 2, 4))
    assert [arm.key for arm in arms] == ["real", "copies@4", "winter@1", "winter@2", "winter@4", "alaluf@1"]
    assert parse_comparison(None, arms) == (Arm("winter", 4), Arm("copies", 4))
    assert parse_comparison("winter@1:real", arms) == (Arm("winter", 1), Arm("real", 0))


@pytest.mark.parametrize(
    "text", ["", "real@1", "winter@3", "winter@x", "copy", "winter@", "copies,,winter", "winter@²"]
)
def test_arms_that_there_are_not_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="`arms`"):
        parse_arms(text, (1, 2))


@pytest.mark.parametrize("text", ["", "0", "1,x", "-1", "101", "1e3", "١", "1;2"])
def test_rounds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="`rounds`"):
        parse_rounds(text)


@pytest.mark.parametrize("text", ["winter@2", "winter@1:copies@9", ":", "winter@1-real"])
def test_comparisons_of_unknown_arms_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="`main`"):
        parse_comparison(text, parse_arms("winter", (1, 2)))


def test_copies_are_the_origin_under_the_turn_of_the_target(tmp_path: Path) -> None:
    labels = (np.arange(64 * 64).reshape(64, 64) % 7 > 3).astype(int)
    one, other = written(tmp_path / "real", "a.png", labels), written(tmp_path / "real", "b.png", 1 - labels, 1)
    todo = [Recipe(number + 1, "a.png", "b.png", element) for number, element in enumerate(DIHEDRAL)]
    assert len(list(make_copies(tmp_path / "copies", todo, [one, other], CLASSES))) == len(todo)
    made = read_set(tmp_path / "copies", [one, other])
    assert [each.round for each in made] == list(range(1, 9))
    image, mask = load_pair(one, CLASSES)
    for each, recipe in zip(made, todo, strict=True):
        assert each.synthetic
        assert each.slide == one.slide
        found, found_labels = load_pair(each, CLASSES)
        assert np.array_equal(found, turn(image, recipe.dihedral))
        assert np.array_equal(found_labels, turn(mask, recipe.dihedral))


def test_a_collage_has_the_origins_pixels_of_each_class_where_the_target_has_it(tmp_path: Path) -> None:
    columns = (np.arange(64)[None, :] + np.zeros((64, 1)) > 20).astype(int)
    one, other = written(tmp_path, "a.png", columns), written(tmp_path, "b.png", columns.T.copy(), 1)
    todo = [Recipe(1, "a.png", "b.png", "rotate90")]
    list(make_collages(tmp_path / "made", todo, [one, other], CLASSES, 0))
    (made,) = read_set(tmp_path / "made", [one, other])
    image, labels = load_pair(made, CLASSES)
    assert np.array_equal(labels, turn(columns.T, "rotate90"))
    origin = load_image(one)
    for c in (0, 1):
        known = {tuple(pixel) for pixel in origin[columns == c].tolist()}
        assert {tuple(pixel) for pixel in image[labels == c].tolist()} <= known
    list(make_collages(tmp_path / "again", todo, [one, other], CLASSES, 0))
    assert np.array_equal(load_image(read_set(tmp_path / "again", [one, other])[0]), image)


def test_a_class_that_the_origin_lacks_is_taken_from_another_or_ignored(tmp_path: Path) -> None:
    whole = np.zeros((64, 64), int)
    half = (np.arange(64)[:, None] + np.zeros((1, 64)) > 31).astype(int)
    alone, donor = written(tmp_path, "a.png", whole), written(tmp_path, "b.png", half, 1)
    image, labels = collage([alone, donor], half, CLASSES, np.random.default_rng(0))
    assert np.array_equal(labels, half)
    assert (image[half == 1, 2] >= 180).all()
    _, labels = collage([alone], half, CLASSES, np.random.default_rng(0))
    assert (labels[half == 1] == len(CLASSES)).all()
    assert (labels[half == 0] == 0).all()


def test_tissue_spreads_over_canvases_of_any_size() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 255, (40, 60, 3), dtype=np.uint8)
    inside = np.zeros((40, 60), bool)
    inside[10:14, 20:23] = True
    known = {tuple(pixel) for pixel in image[inside].tolist()}
    for shape in ((20, 20), (90, 50), (40, 60)):
        canvas = spread(image, inside, shape, rng)
        assert canvas.shape == (*shape, 3)
        assert {tuple(pixel) for pixel in canvas.reshape(-1, 3).tolist()} <= known


def test_moved_doubts_leave_out_as_many_pixels() -> None:
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 2, (64, 48)).astype(np.uint8)
    trusted = np.where(rng.random((64, 48)) < 0.3, IGNORED, plain).astype(np.uint8)
    moved = move_doubts(trusted, plain, rng)
    assert (moved == IGNORED).sum() == (trusted == IGNORED).sum()
    assert not np.array_equal(moved, trusted)
    assert np.array_equal(moved[moved != IGNORED], plain[moved != IGNORED])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "x.png"}', "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"file_name": 1, "mask_file_name": "m", "origin": "a.png", "round": 1}', "damaged"),
        ('{"file_name": "x\\u0000", "mask_file_name": "m", "origin": "a.png", "round": 1}', "damaged"),
        ('{"file_name": "x", "mask_file_name": "m", "origin": "a.png", "round": true}', "damaged"),
        ('{"file_name": "x", "mask_file_name": "m", "origin": "other.png", "round": 1}', "none of the subset"),
    ],
)
def test_sets_that_are_damaged_or_of_other_images_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_set(tmp_path, [Sample("a.png", Path("a.png"), (("", Path("m.png")),))])


def test_ignored_pixels_stay_ignored_in_sets(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), int)
    labels[:8], labels[8:16] = 255, 1
    one = written(tmp_path, "a.png", labels)
    list(make_copies(tmp_path / "made", [Recipe(1, "a.png", "a.png", "rotate180")], [one], CLASSES))
    (made,) = read_set(tmp_path / "made", [one])
    found = load_trusted(dataclasses.replace(made, trusted=made.masks[0][1]), CLASSES)
    assert (found[-8:] == len(CLASSES)).all()
    assert (found[:-8] < len(CLASSES)).all()


def test_the_rising_curve_is_that_of_isotonic_regression() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(0)
    for _ in range(50):
        values, weights = rng.random(7), rng.random(7) + 0.1
        expected = isotonic.IsotonicRegression().fit_transform(np.arange(7), values, sample_weight=weights)
        assert monotone(values.tolist(), weights.tolist()) == pytest.approx(expected.tolist())


def test_the_rising_curve_pools_what_falls() -> None:
    assert monotone([1.0, 3.0, 2.0, 4.0], [1.0] * 4) == [1.0, 2.5, 2.5, 4.0]
    assert monotone([3.0, 2.0, 1.0], [1.0, 1.0, 2.0]) == pytest.approx([1.75] * 3)


def test_worth_is_read_off_the_curve_between_its_points() -> None:
    counts, curve = [100.0, 400.0, 1600.0], [0.6, 0.7, 0.8]
    assert worth(counts, curve, 0.65) == pytest.approx(200.0)
    assert worth(counts, curve, 0.8) == pytest.approx(1600.0)
    assert math.isinf(worth(counts, curve, 0.81))
    assert worth(counts, curve, 0.59) == 0.0
    assert worth(counts, [0.6, 0.6, 0.8], 0.6) == 100.0


def test_the_interval_of_a_worth_holds_a_planted_one() -> None:
    rng = np.random.default_rng(0)
    counts, truth = [10.0, 40.0, 160.0], np.array([0.6, 0.7, 0.8])
    curves = truth + 0.01 * rng.standard_normal((500, 3))
    scores = 0.75 + 0.01 * rng.standard_normal(500)
    found = worth_with_interval(counts, truth.tolist(), 0.75, curves, scores, 0.95)
    assert found.images == pytest.approx(80.0)
    assert 40 < found.low < 80 < found.high < 160
    beyond = worth_with_interval(counts, truth.tolist(), 0.85, curves, scores + 0.1, 0.95)
    assert math.isinf(beyond.images)


@pytest.mark.parametrize(
    ("means", "expected", "seen"),
    [
        ((0.6, 0.7, 0.75, 0.75, 0.75), 2, True),
        ((0.6, 0.6, 0.6, 0.6, 0.6), 0, True),
        ((0.5, 0.6, 0.7, 0.8, 0.9), 4, False),
        ((0.7, 0.6, 0.5, 0.4, 0.3), 0, True),
    ],
)
def test_saturation_is_the_first_round_within_an_error_of_the_best(
    means: tuple[float, ...], expected: int, seen: bool
) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array(means) + 0.005 * rng.standard_normal((400, 5))
    found = saturation([0, 1, 2, 3, 4], means, drawn, 0.95)
    assert (found.round, found.seen) == (expected, seen)
    assert found.low <= found.round <= found.high


def plan() -> Plan:
    arms = (Arm("real", 0), Arm("copies", 2), Arm("collage", 2))
    subsets = tuple(Subset(share, 0, ("a",) if share < 1 else ("a", "b"), ("v",)) for share in (0.5, 1.0))
    question = Question(arms[2], arms[1], 0.5, 0.02)
    return Plan(question, subsets, (0.5,), arms, 2, {"training": {"steps": 5}, "images": {"x": ["train"]}})


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_json(plan()))
    assert read_plan(path) == plan()
    ids = [run.id for run in plan().runs]
    assert ids[:2] == ["s50-d0-real-seed0", "s50-d0-real-seed1"]
    assert len(set(ids)) == len(ids) == 8


def test_more_of_the_same_may_come_later_and_is_marked() -> None:
    before = plan()
    asked = dataclasses.replace(before, arms=(*before.arms[:2], Arm("copies", 1)), seeds=3)
    found = extended(before, asked)
    assert {run.id for run in before.runs} < {run.id for run in found.runs}
    assert found.later == ("arm copies@1", "seed 2")
    assert found.question == before.question
    assert extended(found, before) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"training": {"steps": 6}, "images": {"x": ["train"]}}}, "steps 5, not 6"),
        ({"settings": {"training": {"steps": 5}, "images": {"x": ["test"]}}}, "x"),
        ({"expanded": (0.5, 1.0)}, "share"),
        ({"subsets": plan().subsets[:1]}, "other subsets"),
        ({"subsets": (Subset(0.5, 0, ("b",), ("v",)), plan().subsets[1])}, "other subsets"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extended(plan(), dataclasses.replace(plan(), **change))  # type: ignore[arg-type]


def test_damaged_plans_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    text = plan_json(plan())
    content = json.loads(text)
    broken = [text[: len(text) // 2], "", "null", "[]", "\0", text.replace('"copies"', '"copy"'), '{"question": 1}']
    for key in content:
        broken += [json.dumps({**content, key: value}) for value in (None, -1, float("nan"), "x", {}, [[]], [1])]
        broken.append(json.dumps({name: value for name, value in content.items() if name != key}))
    for each in broken:
        path.write_text(each)
        # Either it is refused, or what is left is a plan that can be carried out.
        with contextlib.suppress(InputError):
            assert read_plan(path).runs, each
    path.write_text(broken[0])
    with pytest.raises(InputError, match=r"plan\.json: the plan cannot be read"):
        read_plan(path)
