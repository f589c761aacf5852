"""Copies are copies, collages have the origin's tissue in the target's places, and sets are the subset's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

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
from evaluation.samples import Sample, load_image, load_pair, load_trusted
from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.images import write_png
from imaging.turns import DIHEDRAL, turn
from tests.evaluation.experiments import request, told, world

ARMS = ("winter", "vae")
CLASSES = ClassMap.parse("epithelium=0,stroma=1,ignore=255")


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


def test_loras_are_part_of_an_experiment(tmp_path: Path, tiny_folder: Path, tiny_lora: Path) -> None:
    drawn = world(tmp_path / "world", slides=(4, 2, 2))
    common = {"arms": "vae,winter", "main": "winter@1:vae@1", "rounds": "1", "draws": 1, "seeds": 1}
    common |= {"shares": "0.5,1", "weights": str(tiny_folder)}
    images = {}
    for name, lora in (("plain", ()), ("merged", (str(tiny_lora),))):
        told(request(drawn, tmp_path / name, lora=lora, **common))
        sets = tmp_path / name / "sets" / "s50-d0"
        images[name] = {arm: [path.read_bytes() for path in sorted((sets / arm / "images").iterdir())] for arm in ARMS}
        assert ("lora" in (tmp_path / name / "plan.json").read_text()) == bool(lora)
    assert images["plain"]["winter"] != images["merged"]["winter"]
    assert images["plain"]["vae"] == images["merged"]["vae"]  # they have no pairs for the autoencoder
    with pytest.raises(InputError, match="another"):
        told(request(drawn, tmp_path / "merged", **common))
