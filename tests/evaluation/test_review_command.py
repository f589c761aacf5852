"""`review` from files to files: a study of datasets made here, its score, and what is refused beforehand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from evaluation.review.key import read_key
from imaging.images import write_png
from tests.evaluation.reviewing import answer_rows, truths, write_answers


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Eight real pairs whose label maps hold 0 and 255, and what was made of the first four, in class numbers."""
    rng = np.random.default_rng(0)
    for root, count in (("real", 8), ("insilico", 4)):
        rows = []
        for part in ("images", "masks"):
            (tmp_path / root / part).mkdir(parents=True)
        for index in range(count):
            labels = (rng.random((20, 20)) < 0.2 + 0.08 * index).astype(np.uint8)
            labels[0, :2] = (0, 1)
            name = f"p{index}.png" if root == "real" else f"r1-{index}.png"
            write_png(tmp_path / root / "images" / name, rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            write_png(tmp_path / root / "masks" / name, labels * (255 if root == "real" else 1))
            rows.append({"file_name": f"images/{name}", "mask_file_name": f"masks/{name}", "synthetic": True})
            rows[-1] |= {"round": 1, "origin": f"p{index}.png"}
        if root == "insilico":
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / root / "manifest.jsonl").write_text(text)
    return tmp_path / "real"


def make(real: Path, *more: str) -> int:
    folder = real.parent
    return cli.main(["review", "make", str(real), str(folder / "insilico"), "--output", str(folder / "study"), *more])


@pytest.mark.parametrize("mode", ["single", "pairs"])
def test_a_study_is_made_and_scored(real: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real.parent
    assert make(real, "--mode", mode, "--count", "4" if mode == "pairs" else "8", "--classes", "a=0,b=255") == 0
    out = capsys.readouterr().out
    assert f"page:    {folder / 'study' / 'review.html'} (give readers this file alone)" in out
    key = read_key(folder / "study" / "key.json")
    assert key.classes == ("a", "b")
    assert all(0 < each.shares[1] < 1 for each in key.images)
    origins = {each.origin for each in key.images if each.origin}
    assert len(origins) == 4
    assert not origins & {each.name for each in key.images if not each.origin}
    paths = [
        str(write_answers(folder / f"{name}.json", key, name, answer_rows(key, signs)))
        for name, signs in (("one", truths(key)), ("two", dict.fromkeys(truths(key), 1)))
    ]
    arguments = ["--key", str(folder / "study" / "key.json"), "--output", str(folder / "score")]
    assert cli.main(["review", "score", *paths, *arguments]) == 0
    out = capsys.readouterr().out
    assert "reader one: right 1.00" in out
    assert "all readers: right" in out
    assert "one and two: the same" in out
    assert sorted(path.name for path in (folder / "score").iterdir()) == ["answers.csv", "images.csv", "score.json"]
    found = json.loads((folder / "score" / "score.json").read_text())
    assert found["readers"][0]["told"]["accuracy"]["value"] == 1.0


def test_an_odd_count_is_told(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(real, "--count", "7", "--repeats", "0") == 0
    found = capsys.readouterr()
    assert "so there are 6 questions, not 7" in found.err
    assert "study:   6 questions, 0 of them repeats" in found.out


def test_a_study_is_never_written_over(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(real) == 0
    before = (real.parent / "study" / "key.json").read_bytes()
    assert make(real) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (real.parent / "study" / "key.json").read_bytes() == before


def test_seeds_are_drawn_anew_unless_given(real: Path) -> None:
    keys = []
    for number in range(2):
        assert make(real, "--output", str(real.parent / str(number))) == 0
        keys.append(read_key(real.parent / str(number) / "key.json"))
    assert keys[0].seed != keys[1].seed
    assert keys[0].study != keys[1].study


def test_what_cannot_be_asked_is_refused_in_a_line(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real.parent
    insilico = str(folder / "insilico")
    for words, said in (
        ([insilico, str(real)], "holds in-silico images; give the folder of real ones first"),
        ([str(real), str(real)], "is given twice"),
        ([str(real), insilico, insilico], "is given twice"),
        ([str(real), str(folder / "nothing")], "no such folder or manifest"),
        ([str(real), insilico, "--side", "400"], "--side 400: the smallest image has 20×20 px"),
        ([str(real), insilico, "--repeats", "nan"], "--repeats nan: must be from 0 to 0.5"),
        ([str(real), insilico, "--mode", "triples"], "--mode triples: must be one of single, pairs"),
        ([str(real), insilico, "--classes", "a=0,b=7"], "the label 255"),
        ([str(real), insilico, "--seed", "-1"], "--seed -1: must be from 0"),
    ):
        assert cli.main(["review", "make", *words, "--output", str(folder / "x")]) == 2
        assert said in capsys.readouterr().err
    assert not list((folder / "x").glob("*"))


def test_a_damaged_image_ends_it_with_nothing_written(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (real / "images").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    assert make(real) == 2
    assert "error: " in capsys.readouterr().err
    assert not list((real.parent / "study").glob("*"))


def test_jpegs_traces_are_told(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (real / "images").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert make(real) == 0
    assert "real images are JPEG files" in capsys.readouterr().err


def test_a_score_needs_its_key_and_does_not_write_over_answers(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(real) == 0
    key = read_key(real.parent / "study" / "key.json")
    path = write_answers(real.parent / "score.json", key, "a", answer_rows(key, truths(key)))
    assert cli.main(["review", "score", str(path)]) == 2
    assert "which key?" in capsys.readouterr().err
    arguments = ["--key", str(real.parent / "study" / "key.json"), "--output", str(real.parent)]
    assert cli.main(["review", "score", str(path), *arguments]) == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err
    os.mkfifo(real.parent / "pipe")
    assert cli.main(["review", "score", str(real.parent / "pipe"), *arguments]) == 2
    assert cli.main(["review", "score", str(path), "--key", str(path)]) == 2
    assert "no key of a review study" in capsys.readouterr().err
