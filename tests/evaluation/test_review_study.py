"""A study is balanced, matched and blind: its page tells nothing of what is in-silico, its key everything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.review.key import Key, read_key
from evaluation.review.matching import Candidate, assign, match
from evaluation.review.page import build_page
from evaluation.review.study import ImageSet, Study
from imaging.errors import InputError
from tests.evaluation.reviewing import SIDE, draw_set, sets, study_of


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[ImageSet]:
    """Not to be changed."""
    return sets(tmp_path_factory.mktemp("sets"))


def arms_of(key: Key) -> list[int]:
    return [key.images[trial.images[0]].arm for trial in key.trials if not trial.repeat_of]


def test_assignment_is_the_cheapest() -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="among the requirements of the tests")
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = int(rng.integers(1, 10))
        shape = (rows, rows + int(rng.integers(0, 10)))
        costs = rng.integers(0, 4, shape) + rng.choice([0.0, 1e6], shape, p=[0.7, 0.3])
        columns = assign(costs)
        assert len(set(columns)) == rows
        assert costs[np.arange(rows), columns].sum() == costs[optimize.linear_sum_assignment(costs)].sum()
    with pytest.raises(ValueError, match="3 rows for 2 columns"):
        assign(np.zeros((3, 2)))


def test_real_images_are_of_like_shares_and_not_of_the_in_silico_ones_own_making() -> None:
    made = [Candidate(0, "a", (0.5, 0.5)), Candidate(1, "b", (0.9, 0.1))]
    # a would be the best partner of both, but the first was made from it.
    real = [Candidate(0, "a", (0.5, 0.5)), Candidate(1, "c", (0.6, 0.4)), Candidate(2, "d", (0.85, 0.15))]
    assert match(made, real) == [1, 2]
    assert match(made, real[:2]) == [1, 0]


@pytest.mark.parametrize("seed", range(8))
def test_half_are_real_and_arms_are_equal(given: list[ImageSet], seed: int) -> None:
    key = study_of(given, seed=seed).key
    counts = np.bincount(arms_of(key), minlength=3).tolist()
    assert counts == [6, 3, 3]
    shown = {(each.arm, each.name) for each in key.images}
    assert len(shown) == 12
    origins = [each.origin for each in key.images if each.arm]
    assert len(set(origins)) == len(origins)
    assert not {each.name for each in key.images if not each.arm} & set(origins)


def test_matched_images_have_like_shares_where_there_is_a_choice(tmp_path: Path) -> None:
    real = draw_set(tmp_path, "real", 60)
    made = draw_set(tmp_path, "made", 10, ["elsewhere.png"])
    study = study_of([real, made], count=20)
    for one, other in zip(study.key.images[::2], study.key.images[1::2], strict=True):
        assert (one.arm, other.arm) == (1, 0)
        assert abs(one.shares[0] - other.shares[0]) < 0.1
    assert any("differ by 0.0" in note for note in study.notes)
    assert any("an origin that another one has too" in note for note in study.notes)


@pytest.mark.parametrize("seed", range(20))
def test_no_pair_shows_an_image_beside_its_origin(tmp_path: Path, seed: int) -> None:
    # One real image more than there are pairs, each the origin of some: hard to keep apart.
    real = draw_set(tmp_path, "real", 5)
    made = draw_set(tmp_path, "made", 8, [each.name for each in real.samples])
    key = study_of([real, made], mode="pairs", count=4, seed=seed).key
    assert len(key.trials) == 5
    for trial in key.trials:
        one, other = (key.images[index] for index in trial.images)
        assert one.arm != other.arm
        assert one.origin != other.name
        assert other.origin != one.name


def test_a_pair_that_cannot_be_kept_apart_is_left_out(tmp_path: Path) -> None:
    real = draw_set(tmp_path, "real", 1)
    made = draw_set(tmp_path, "made", 2, [real.samples[0].name])
    with pytest.raises(InputError, match="there are no images to show"):
        study_of([real, made], mode="pairs", count=1)


def test_origins_are_known_by_their_last_part_where_that_tells(tmp_path: Path) -> None:
    real = draw_set(tmp_path, "real", 2)
    made = draw_set(tmp_path, "made", 1, ["train/images/real0.png"])
    key = study_of([real, made], mode="pairs", count=1, repeats=0.0).key
    assert sorted(each.name for each in key.images) == ["images/made0.png", "images/real1.png"]


def test_origins_are_known_by_their_digests_whatever_they_are_called_now(tmp_path: Path) -> None:
    real = draw_set(tmp_path, "real", 2)
    made = draw_set(tmp_path, "made", 1, ["old_name.png"])
    digest = hashlib.sha256(real.samples[1].image.read_bytes()).hexdigest()
    made = replace(made, samples=(replace(made.samples[0], origin_sha256=digest),))
    for seed in range(4):
        key = study_of([real, made], mode="pairs", count=1, repeats=0.0, seed=seed).key
        assert sorted(each.name for each in key.images) == ["images/made0.png", "images/real0.png"]
    with pytest.raises(InputError, match="there are no images to show"):
        study_of([replace(real, samples=real.samples[1:]), made], mode="pairs", count=1)


def test_order_and_sides_are_dealt_evenly(tmp_path: Path) -> None:
    """Over seeds: first place, last place and left side have in-silico images as often as by coins, to 4.5 sigma."""
    given = [draw_set(tmp_path, "real", 6), draw_set(tmp_path, "made", 6, ["x.png"])]
    count, first, last, left = 150, 0, 0, 0
    for seed in range(count):
        arms = arms_of(study_of(given, seed=seed, count=4, repeats=0.0).key)
        first, last = first + arms[0], last + arms[-1]
        left += sum(arms_of(study_of(given, seed=seed, mode="pairs", count=1).key))
    assert all(abs(found - count / 2) < 4.5 * np.sqrt(count) / 2 for found in (first, last, left))


def test_the_same_seed_deals_the_same_bytes(given: list[ImageSet]) -> None:
    one, again, other = (study_of(given, seed=seed) for seed in (1, 1, 2))
    assert build_page(one.key, one.pictures) == build_page(again.key, again.pictures)
    assert one.key == again.key
    assert {trial.id for trial in one.key.trials}.isdisjoint(trial.id for trial in other.key.trials)


def decoded(study: Study, place: int) -> list[np.ndarray]:
    import io

    return [np.asarray(Image.open(io.BytesIO(each))) for each in study.pictures[place]]


@pytest.mark.parametrize("mode", ["single", "pairs"])
def test_repeats_are_mirrored_change_sides_and_come_late(given: list[ImageSet], mode: str) -> None:
    study = study_of(given, mode=mode, count=12, repeats=0.25)
    places = {trial.id: place for place, trial in enumerate(study.key.trials)}
    repeats = [trial for trial in study.key.trials if trial.repeat_of]
    assert len(repeats) == 3
    for trial in repeats:
        here, there = places[trial.id], places[trial.repeat_of]
        assert here - there > 6
        again = [each[:, ::-1] for each in decoded(study, here)][::-1]
        assert all(np.array_equal(a, b) for a, b in zip(again, decoded(study, there), strict=True))


def chunks(png: bytes) -> list[str]:
    found, at = [], 8
    while at < len(png) and found[-1:] != ["IEND"]:
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        found.append(kind.decode())
        at += 12 + length
    return found


@pytest.mark.parametrize("mode", ["single", "pairs"])
def test_the_page_does_not_tell_which_are_real(given: list[ImageSet], mode: str) -> None:
    study = study_of(given, mode=mode)
    page = build_page(study.key, study.pictures)
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    for word in ("winter", "alaluf", "images/", "manifest", *(str(each.path) for each in given)):
        assert word not in text.lower()
    for image in study.key.images:
        assert image.name not in page
        assert image.sha256 not in page
    files = [base64.b64decode(each) for each in found]
    assert len(files) == len(study.key.trials) * (1 if mode == "single" else 2)
    assert len({len(each) for each in files}) == 1
    for each in files:
        assert set(chunks(each)) == {"IHDR", "IDAT", "IEND"}
    content = json.loads(re.findall(r'<script type="application/json" id="study">(.*?)</script>', page)[0])
    assert set(content) == {"format", "study", "mode", "size", "findings", "longest", "trials"}
    assert all(set(trial) == {"id", "pictures"} for trial in content["trials"])


def test_the_pages_policy_lets_nothing_out_and_its_own_parts_run(given: list[ImageSet]) -> None:
    study = study_of(given)
    page = build_page(study.key, study.pictures)
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0]
    parts = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert (parts["default-src"], parts["img-src"], parts["form-action"]) == ("'none'", "data:", "'none'")
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        assert parts[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))


def test_images_of_other_sizes_are_cut_to_one_and_none_is_scaled(tmp_path: Path) -> None:
    real, made = draw_set(tmp_path, "real", 2), draw_set(tmp_path, "made", 1, ["x.png"])
    path = made.samples[0].image
    whole = np.asarray(Image.open(path))
    Image.fromarray(np.pad(whole, ((2, 4), (6, 2), (0, 0)))).save(path)
    study = study_of([real, made], count=2, repeats=0.0)
    assert study.key.size == (SIDE, SIDE)
    assert all(decoded(study, place)[0].shape == (SIDE, SIDE, 3) for place in range(2))
    small = study_of([real, made], count=2, repeats=0.0, side=16)
    place = next(p for p, t in enumerate(small.key.trials) if small.key.truth(t) < 0)
    sample = next(s for s in real.samples if s.name == small.key.images[small.key.trials[place].images[0]].name)
    assert np.array_equal(decoded(small, place)[0], np.asarray(Image.open(sample.image))[4:20, 4:20])
    with pytest.raises(InputError, match="the smallest image has 24×24 px"):
        study_of([real, made], count=2, side=25)


def test_too_few_images_are_told(tmp_path: Path) -> None:
    given = [draw_set(tmp_path, "real", 3), draw_set(tmp_path, "made", 9, ["x.png"])]
    study = study_of(given, count=12)
    assert len([trial for trial in study.key.trials if not trial.repeat_of]) == 6
    assert any("only 3 in-silico and as many real images are there, not 6" in note for note in study.notes)


def test_a_key_is_read_back_and_refused_once_it_was_edited(given: list[ImageSet], tmp_path: Path) -> None:
    key = study_of(given).key
    path = tmp_path / "key.json"
    path.write_text(key.text())
    assert read_key(path) == key
    for old, new in (('"synthetic": true', '"synthetic": false'), ('"round": 1', '"round": 2'), ("winter", "other")):
        path.write_text(key.text().replace(old, new, 1))
        with pytest.raises(InputError, match=r"key.json: was changed since|edited, and cannot be used"):
            read_key(path)
    assert replace(key, seed=key.seed + 1).study != key.study
