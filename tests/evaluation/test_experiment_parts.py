"""Subsets that nest, splits that keep slides together, arms, the plan."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from evaluation.experiment.arms import Arm, parse_arms, parse_comparison, parse_rounds
from evaluation.experiment.plan import Plan, Question, extended, plan_json, read_plan
from evaluation.experiment.subsets import Splits, Subset, choose_subsets, leaks, make_splits, stratified_order
from evaluation.samples import Sample
from imaging.errors import InputError


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
