"""Features are made once for an image and an encoder, kept whole or not at all, and never mixed up."""

from __future__ import annotations

import errno
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import imaging.output
from commands.samples import read_samples
from evaluation.embedding.features import FeatureStore, embed, feature_key
from evaluation.embedding.images import EmbeddedImage, look_at, units_of
from imaging.errors import InputError, ProblemsError
from imaging.images import write_png
from tests.evaluation.embedded import EACH, SLIDES, draw_made, draw_real


def drain(work: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@dataclass
class MeanColour:
    """An encoder that counts what it is asked."""

    name: str = "mean colour"
    value: float = 0.0
    seen: list[int] = field(default_factory=list)
    width: int = 3

    @property
    def description(self) -> dict[str, str]:
        return {"name": self.name}

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(int(image.sum()))
        return (image.mean(axis=(0, 1)) + self.value).astype(np.float32)


@pytest.fixture
def images(tmp_path: Path) -> list[EmbeddedImage]:
    names = draw_real(tmp_path / "real")
    draw_made(tmp_path / "made", names, rounds=1)
    sets = [read_samples(tmp_path / each).samples for each in ("real", "made")]
    found: list[EmbeddedImage] = drain(look_at("sets", sets[0], {"made": sets[1]}, None))[0]
    return found


def test_nothing_is_embedded_twice(images: list[EmbeddedImage], tmp_path: Path) -> None:
    store, first = FeatureStore(tmp_path / "store"), MeanColour()
    whole = drain(embed(images, first, store))
    assert len(first.seen) == len(images)
    again = MeanColour()
    np.testing.assert_array_equal(drain(embed(images[::-1], again, store)), whole[::-1])
    assert again.seen == []


def test_it_goes_on_where_it_was_interrupted(images: list[EmbeddedImage], tmp_path: Path) -> None:
    store, first = FeatureStore(tmp_path / "store"), MeanColour()
    work = embed(images, first, store)
    for _ in range(5):
        next(work)
    work.close()
    again = MeanColour()
    whole = drain(embed(images, again, store))
    assert len(first.seen) == 5
    assert len(again.seen) == len(images) - 5
    np.testing.assert_array_equal(whole, drain(embed(images, MeanColour(), FeatureStore(tmp_path / "other"))))


def test_another_encoder_or_image_has_other_features(images: list[EmbeddedImage], tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    first = drain(embed(images, MeanColour(), store))
    other = MeanColour("brighter", 1.0)
    np.testing.assert_allclose(drain(embed(images, other, store)), first + 1, rtol=1e-6)
    assert len(other.seen) == len(images)
    assert len({feature_key(each.digest, MeanColour()) for each in images}) == len(images)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "longer", "folder"])
def test_damaged_features_are_made_again(images: list[EmbeddedImage], tmp_path: Path, damage: str) -> None:
    store = FeatureStore(tmp_path / "store")
    whole = drain(embed(images, MeanColour(), store))
    path = store.path(feature_key(images[3].digest, MeanColour()))
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    changes = {"cut": content[:-1], "flipped": flipped, "empty": b"", "longer": 2 * content}
    path.unlink()
    if damage == "folder":
        path.mkdir()
        with pytest.raises(InputError, match="features"):
            drain(embed(images, MeanColour(), store))
        return
    path.write_bytes(changes[damage])
    again = MeanColour()
    np.testing.assert_array_equal(drain(embed(images, again, store)), whole)
    assert len(again.seen) == 1
    assert path.read_bytes() == content


def test_a_full_disk_leaves_nothing_half_written(images, tmp_path: Path, monkeypatch) -> None:
    store = FeatureStore(tmp_path / "store")

    def full(*paths: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(imaging.output.os, "replace", full)
    with pytest.raises(InputError, match="the disk is full"):
        drain(embed(images, MeanColour(), store))
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_values_that_are_not_finite_are_refused_and_not_kept(images, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    with pytest.raises(InputError, match=r"slide0-0.png: its features are not finite"):
        drain(embed(images, MeanColour(value=float("inf")), store))
    assert not (tmp_path / "store").exists()


def test_an_image_that_changes_meanwhile_is_refused(images, tmp_path: Path) -> None:
    write_png(images[2].sample.image, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="changed since the run began"):
        drain(embed(images, MeanColour(), FeatureStore(tmp_path / "store")))


def test_images_are_told_by_set_round_slide_and_class_share(images: list[EmbeddedImage]) -> None:
    real, made = images[: SLIDES * EACH], images[SLIDES * EACH :]
    assert {(each.arm, each.round) for each in real} == {("real", 0)}
    assert {(each.arm, each.round) for each in made} == {("made", 1)}
    assert [each.unit for each in made] == [each.unit for each in real]
    assert all(sum(each.shares) == pytest.approx(1) for each in images)
    assert units_of(images, 4)[1] == "slide"
    by_image, what = units_of(images, 5)
    assert what == "image"
    assert by_image[: len(real)] == by_image[len(real) :] == [each.sample.name for each in real]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    names = draw_real(tmp_path / "real")
    draw_made(tmp_path / "made", names, rounds=1)
    real, made = (read_samples(tmp_path / each).samples for each in ("real", "made"))
    (real[0].image).write_bytes(b"no picture")
    write_png(real[1].masks[0][1], np.zeros((32, 32), np.uint8))
    write_png(made[2].masks[0][1], np.full((64, 64), 7, np.uint8))
    with pytest.raises(ProblemsError) as caught:
        drain(look_at("sets", real, {"made": made}, None))
    assert len(caught.value.problems) == 3
    for problem, word in zip(caught.value.problems, ("slide0-0.png", "slide0-1.png", "label 7"), strict=True):
        assert word in problem
