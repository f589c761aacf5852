"""Readers of known skill get the score that they have, whatever the mode; what they caught is found."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from evaluation.review.answers import read_answers
from evaluation.review.key import Key
from evaluation.review.readers import ABOVE, BELOW, CHANCE
from evaluation.review.report import answers_table, describe, images_table
from evaluation.review.score import Score, score
from imaging.errors import InputError, ProblemsError
from tests.evaluation.reviewing import answer_rows, sets, study_of, truths, write_answers

MODES = pytest.mark.parametrize("mode", ["single", "pairs"])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    """A study of each mode."""
    given = sets(tmp_path_factory.mktemp("sets"))
    return {mode: study_of(given, mode=mode, count=20, repeats=0.2).key for mode in ("single", "pairs")}


def scored(folder: Path, key: Key, **readers: dict[str, int]) -> Score:
    paths = [write_answers(folder / f"{n}.json", key, n, answer_rows(key, signs)) for n, signs in readers.items()]
    return score(key, read_answers(paths, key))


def flipped(signs: dict[str, int], which: set[str]) -> dict[str, int]:
    return {trial: -sign if trial in which else sign for trial, sign in signs.items()}


@MODES
def test_one_who_sees_all_and_one_who_sees_it_the_wrong_way(keys: dict[str, Key], mode: str, tmp_path: Path) -> None:
    key = keys[mode]
    right = truths(key)
    found = scored(tmp_path, key, sees=right, errs=flipped(right, set(right)))
    sees, errs = found.readers
    assert (sees.told.accuracy.value, sees.told.area.value, sees.told.verdict) == (1.0, 1.0, ABOVE)
    assert (errs.told.accuracy.value, errs.told.area.value, errs.told.verdict) == (0.0, 0.0, BELOW)
    assert sees.told.above < 1e-4 < sees.told.below
    assert sees.told.accuracy.low is not None
    assert sees.told.accuracy.low > 0.8
    for each in (sees, errs):
        assert (each.answered, each.asked, each.with_self.count) == (20, 20, 4)
        assert each.with_self.share.value == 1.0
    (_, _, agreement) = found.between[0]
    assert (agreement.share.value, agreement.kappa.value) == (0.0, pytest.approx(-1.0, abs=0.2))
    assert found.together is not None
    assert found.together.verdict == CHANCE
    assert found.together.accuracy.value == 0.5


@MODES
def test_habits_are_no_skill(keys: dict[str, Key], mode: str, tmp_path: Path) -> None:
    key = keys[mode]
    always = dict.fromkeys(truths(key), 1)
    found = scored(tmp_path, key, always=always).readers[0]
    assert found.told.verdict == CHANCE
    assert found.told.area.value == 0.5
    if mode == "single":
        assert (found.told.accuracy.value, found.told.above) == (0.5, 1.0)
        assert (found.told.caught.value, found.told.false_alarms.value) == (1.0, 1.0)
        assert found.with_self.kappa.value is None
    else:
        # Who always says right contradicts themselves as the sides change.
        assert found.with_self.share.value == 0.0


@MODES
def test_rates_of_arms_classes_and_images_are_those_of_the_answers(
    keys: dict[str, Key], mode: str, tmp_path: Path
) -> None:
    key = keys[mode]
    right = truths(key)
    winter = {
        trial.id for trial in key.trials if any(key.arms[key.images[i].arm].name == "winter" for i in trial.images)
    }
    # The arm winter fools one, and half of the readers together.
    found = scored(tmp_path, key, sees=right, fooled=flipped(right, winter))
    rates = {group.name: group for group in found.arms}
    assert set(rates) == ({"real", "winter", "alaluf"} if mode == "single" else {"winter", "alaluf"})
    assert (rates["alaluf"].caught.value, rates["winter"].caught.value) == (1.0, 0.5)
    assert [each.value for each in rates["winter"].accuracy_by_reader] == [1.0, 0.0]
    if mode == "single":
        assert (rates["real"].false_alarms.value, rates["real"].caught.value) == (0.0, None)
    images = len([trial for trial in key.trials if not trial.repeat_of])
    assert sum(group.images for group in found.classes) == images
    assert {group.name for group in found.classes} <= {"class 0", "class 1"}
    first = found.images[0]
    assert (first.arm, first.synthetic, first.called, first.readers) == ("alaluf", True, 2, 2)
    called = {each.name: each.called for each in found.images if each.synthetic and each.arm == "winter"}
    assert set(called.values()) == {1}
    assert all(each.called == 0 for each in found.images if not each.synthetic) == (mode == "single")
    assert first.findings["crowded"] == (2 if mode == "single" else first.findings["crowded"])
    assert any(line.startswith("most often caught") for line in describe(found))


def test_a_reader_of_some_skill_has_the_area_and_kappas_that_scikit_learn_gives(
    keys: dict[str, Key], tmp_path: Path
) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="among the requirements of the tests")
    key, rng = keys["single"], np.random.default_rng(5)
    right, rows = truths(key), {}
    for name in ("a", "b", "c"):
        signs = {trial: sign if rng.random() < 0.75 else -sign for trial, sign in right.items()}
        rows[name] = answer_rows(key, signs)
        for row in rows[name]:
            row["confidence"] = int(rng.integers(1, 6))
    paths = [write_answers(tmp_path / f"{name}.json", key, name, each) for name, each in rows.items()]
    found = score(key, read_answers(paths, key))
    first = [trial.id for trial in key.trials if not trial.repeat_of]
    truth = [right[trial] > 0 for trial in first]
    said = {n: {row["trial"]: row for row in each} for n, each in rows.items()}
    rated = {
        n: [(1 if said[n][t]["choice"] == "synthetic" else -1) * said[n][t]["confidence"] for t in first] for n in said
    }
    for reader in found.readers:
        assert reader.told.area.value == pytest.approx(metrics.roc_auc_score(truth, rated[reader.reader]))
    for one, other, agreement in found.between:
        expected = metrics.cohen_kappa_score(np.sign(rated[one]), np.sign(rated[other]))
        assert agreement.kappa.value == pytest.approx(expected)
    assert found.together is not None
    assert found.together.area.value == pytest.approx(np.mean([each.told.area.value for each in found.readers]))
    assert found.together.accuracy.value == pytest.approx(np.mean([each.told.accuracy.value for each in found.readers]))
    assert found.all_readers is not None
    assert len(found.between) == 3


def test_a_study_that_is_not_done_counts_what_is_there(keys: dict[str, Key], tmp_path: Path) -> None:
    key = keys["single"]
    right = truths(key)
    half = dict(list(right.items())[:9])
    rows = answer_rows(key, half)
    rows.append({**rows[0], "trial": list(right)[9], "choice": None, "confidence": None})
    rows.append({**rows[0], "trial": list(right)[10], "choice": "real", "confidence": None})
    path = write_answers(tmp_path / "a.json", key, "a", rows)
    other = write_answers(tmp_path / "b.json", key, "b", answer_rows(key, right))
    found = score(key, read_answers([path, other], key))
    one = found.readers[0]
    assert (one.answered, one.asked, one.told.accuracy.value) == (9, 20, 1.0)
    assert found.between[0][2].count == 9
    assert found.together is not None
    assert found.together.accuracy.value == 1.0
    assert found.together.accuracy.low is not None
    assert "only 9 of 20 answered" in "\n".join(describe(found))


@MODES
def test_tables_have_a_row_for_each_answer_and_image(keys: dict[str, Key], mode: str, tmp_path: Path) -> None:
    key = keys[mode]
    rows = answer_rows(key, truths(key))
    rows[0]["comment"] = "=HYPERLINK(1)\nnuclei\x1b[2K \ud800"
    answers = read_answers([write_answers(tmp_path / "a.json", key, "@a", rows)], key)
    table = list(csv.DictReader(io.StringIO(answers_table(key, answers))))
    assert len(table) == len(key.trials)
    assert all(row["right"] == "1" and row["reader"] == "'@a" for row in table)
    assert table[0]["comment"].startswith("'=HYPERLINK")
    assert all(row["comment"].isprintable() for row in table)
    images = list(csv.DictReader(io.StringIO(images_table(score(key, answers)))))
    assert len(images) == len(key.images)
    assert images[0]["synthetic"] == "1"
    assert images[0]["id"] in images[0]["image"]


def test_answers_that_do_not_belong_are_refused_together(keys: dict[str, Key], tmp_path: Path) -> None:
    key, other = keys["single"], keys["pairs"]
    rows = answer_rows(key, truths(key))
    paths = [
        write_answers(tmp_path / "other.json", other, "a", answer_rows(other, truths(other))),
        write_answers(tmp_path / "twice.json", key, "b", [*rows, rows[0]]),
        write_answers(tmp_path / "unknown.json", key, "c", [{**rows[0], "trial": "x"}]),
        write_answers(tmp_path / "none.json", key, "d", []),
        write_answers(tmp_path / "format.json", key, "e", rows, format="other"),
        write_answers(tmp_path / "sure.json", key, "f", [{**rows[0], "confidence": 6}]),
        write_answers(tmp_path / "name.json", key, "\u202eg", rows),
        write_answers(tmp_path / "good.json", key, "Reader  H", rows),
        write_answers(tmp_path / "again.json", key, "reader h", rows),
        tmp_path / "missing.json",
    ]
    with pytest.raises(ProblemsError) as caught:
        read_answers(paths, key)
    said = "\n".join(caught.value.problems)
    for what in (
        *("other.json: answers to another study", "answered twice", "none of the study", "not one answer"),
        *("no answers of a review", "confidence is 6", "cannot be printed", "missing.json: no such file"),
        "again.json: of the reader reader h, as is",
    ):
        assert what in said
    assert len(caught.value.problems) == 9


def test_a_pipe_is_not_waited_for(keys: dict[str, Key], tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError):
        read_answers([tmp_path / "pipe.json"], keys["single"])
