"""What an experiment does not take: requests without sense, leaks, changed images, damaged results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import cli
from dataset.procedural import World
from imaging.errors import InputError, ProblemsError
from tests.evaluation.experiments import request, told, world
from tests.evaluation.plain_segmenter import Plain


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of eight slides. Not to be changed."""
    return world(tmp_path_factory.mktemp("world"))


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
        ({"size": 100}, "`size` 100"),
        ({"steps": 0}, "`steps` 0"),
        ({"precision": "fp8"}, "`precision` fp8"),
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


def test_subsets_of_one_image_are_noted(drawn: World, tmp_path: Path) -> None:
    lines = told(request(drawn, tmp_path / "out", shares="0.1,1", arms="copies", main="copies@2:real", seeds=1))
    assert any("have one annotated image: its targets can only be its own label map" in line for line in lines)


def test_what_no_training_can_take_ends_the_experiment(drawn: World, tmp_path: Path) -> None:
    class Refusing(Plain):
        def train(self, *arguments: Any, **more: Any) -> Any:
            raise InputError("`encoder` nothing: there is none of this name")

    asked = request(drawn, tmp_path / "out")
    with pytest.raises(InputError, match="`encoder` nothing"):
        told(asked, Refusing())
    assert not list((asked.output / "work" / "failed").iterdir())


def test_a_test_set_made_in_silico_is_refused(drawn: World, tmp_path: Path) -> None:
    asked = request(drawn, tmp_path / "out", arms="copies", main="copies@2:real", seeds=1)
    told(asked)
    made = next(iter(sorted((asked.output / "sets").glob("*/copies"))))
    with pytest.raises(ProblemsError) as error:
        told(request(drawn, tmp_path / "again", test=made))
    assert "is in silico" in error.value.problems[0]
