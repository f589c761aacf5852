"""Keys and answers of a review, damaged by seed: scored, or refused in lines, and never in part."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from evaluation.review.answers import read_answers
from evaluation.review.key import Key, read_key
from evaluation.review.report import answers_table, describe, images_table
from evaluation.review.score import score
from imaging.errors import InputError, ProblemsError
from tests.evaluation.reviewing import answer_rows, sets, study_of, truths, write_answers
from tests.fuzz.mutations import json_bytes, mutate_bytes, mutate_json, seeds


@pytest.fixture(scope="module", params=["single", "pairs"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Path]:
    """A key and a reader's whole file."""
    folder = tmp_path_factory.mktemp("study")
    key = study_of(sets(folder), mode=request.param, count=6, repeats=0.3).key
    (folder / "key.json").write_text(key.text())
    write_answers(folder / "answers.json", key, "a", answer_rows(key, truths(key)))
    return key, folder


def damaged(path: Path, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return mutate_bytes(path.read_bytes(), rng)
    content = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = mutate_json(content, rng)
    return json_bytes(content)


@pytest.mark.parametrize("seed", seeds(60))
def test_damaged_answers_are_scored_or_refused(study: tuple[Key, Path], tmp_path: Path, seed: int) -> None:
    key, folder = study
    path = tmp_path / "answers.json"
    path.write_bytes(damaged(folder / "answers.json", random.Random(seed)))
    try:
        answers = read_answers([path], key)
    except ProblemsError as refusal:
        said = [*refusal.problems, str(refusal)]
        assert all(line.isprintable() and 0 < len(line) < 1000 for line in said)
        return
    found = score(key, answers)
    (reader,) = found.readers
    assert 0 <= reader.answered <= reader.asked
    for value in (reader.told.above, reader.told.below, reader.told.by_chance, reader.seconds):
        assert math.isfinite(value)
    assert all(line.isprintable() for line in describe(found))
    for table in (answers_table(key, answers), images_table(found)):
        assert all(line.isprintable() for line in table.splitlines())


@pytest.mark.parametrize("seed", seeds(60))
def test_a_damaged_key_is_never_taken_for_the_study(study: tuple[Key, Path], tmp_path: Path, seed: int) -> None:
    key, folder = study
    path = tmp_path / "key.json"
    path.write_bytes(damaged(folder / "key.json", random.Random(seed)))
    said = "unchanged"
    try:
        found = read_key(path)
    except InputError as refusal:
        found, said = key, str(refusal)
    assert found == key
    assert said.isprintable()
    assert 0 < len(said) < 1000
