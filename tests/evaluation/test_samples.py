"""Folders of any layout become samples; datasets made in silico keep their round, origin and trusted labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands.samples import choose_samples, read_samples
from evaluation.samples import Sample, load_labels, load_pair, load_trusted
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError
from imaging.images import write_png

CLASSES = ClassMap.parse("epithelium=0,stroma=1,ignore=255")


def write_pair(root: Path, name: str, labels: np.ndarray, masks: str = "masks") -> None:
    """An image of noise and its label map."""
    rng = np.random.default_rng(len(name))
    for part in ("images", masks):
        (root / part).mkdir(parents=True, exist_ok=True)
    write_png(root / "images" / name, rng.integers(0, 256, (*labels.shape, 3), dtype=np.uint8))
    write_png(root / masks / name, labels.astype(np.uint8))


def test_each_annotator_has_label_maps(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 1)):
        write_pair(tmp_path, "one.png", np.full((16, 20), value), f"masks_{name}")
    (sample,) = read_samples(tmp_path).samples
    assert [name for name, _ in sample.masks] == ["a", "b"]
    assert load_labels(sample, CLASSES).max() == 0
    assert load_labels(sample, CLASSES, "b").min() == 1
    with pytest.raises(InputError, match="no label map by c; there are a, b"):
        load_labels(sample, CLASSES, "c")


def test_an_annotator_who_left_images_out_is_told(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        write_pair(tmp_path, name, np.zeros((16, 16)), "masks_a")
    write_pair(tmp_path, "one.png", np.zeros((16, 16)), "masks_b")
    with pytest.raises(ProblemsError) as caught:
        read_samples(tmp_path)
    assert "two.png" in caught.value.problems[0]


def made(root: Path, **changes: object) -> Path:
    """A dataset made in silico of one image, whose row has ``changes``."""
    labels = np.arange(256).reshape(16, 16) % 2
    write_pair(root, "x.png", labels)
    trusted = labels.copy()
    trusted[:4] = 255
    (root / "masks_trusted").mkdir()
    write_png(root / "masks_trusted" / "x.png", trusted.astype(np.uint8))
    row = {
        "file_name": "images/x.png",
        "mask_file_name": "masks/x.png",
        "trusted_mask_file_name": "masks_trusted/x.png",
        "synthetic": True,
        "round": 2,
        "origin": "slide0-1.png",
        "slide_id": "slide0",
    }
    (root / "manifest.jsonl").write_text(json.dumps(row | changes) + "\n")
    return root


def test_made_images_keep_round_origin_and_trusted_labels(tmp_path: Path) -> None:
    (sample,) = read_samples(made(tmp_path)).samples
    assert (sample.synthetic, sample.round, sample.origin, sample.group) == (True, 2, "slide0-1.png", "slide0")
    labels = load_pair(sample, CLASSES)[1]
    trusted = load_trusted(sample, CLASSES)
    assert (trusted[:4] == 2).all()
    assert (trusted[4:] == labels[4:]).all()


KINDS = [
    {"round": "2"},
    {"round": True},
    {"round": 1e400},
    {"origin": 3},
    {"round": -1},
    {"origin_sha256": 3},
    {"target_sha256": ["x"]},
]


@pytest.mark.parametrize("change", KINDS)
def test_rows_of_another_kind_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"manifest.jsonl line 1: {next(iter(change))} is"):
        read_samples(made(tmp_path, **change))


def test_label_maps_made_in_silico_hold_class_numbers_whatever_real_ones_hold(tmp_path: Path) -> None:
    (sample,) = read_samples(made(tmp_path)).samples
    real = ClassMap.parse("epithelium=7,stroma=3")
    assert (load_labels(sample, real) == load_labels(sample, CLASSES)).all()


def test_made_sets_say_their_classes(tmp_path: Path) -> None:
    names = {"epithelium": 0.5, "stroma": 0.5}
    found = read_samples(made(tmp_path / "a", class_fractions=names)).classes
    assert found is not None
    assert (found.names, found.values, found.ignored) == (("epithelium", "stroma"), (0, 1), (255,))
    absurd = [3, [], {}, {"a,b": 1}, {"ignore": 1}, {"a\x1b": 1}, {str(each): 0 for each in range(40)}, {"": 1}]
    for number, each in enumerate(absurd):
        assert read_samples(made(tmp_path / str(number), class_fractions=each)).classes is None


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    names = ["test", "train", "x"]
    samples = [Sample(name, tmp_path, (), split) for name, split in zip(names, names, strict=True)]
    assert choose_samples(samples, None, ("train",)) == ((samples[1],), "train")
    assert choose_samples(samples, "x", ("train",)) == ((samples[2],), "x")
    assert choose_samples(samples[2:], None, ("train",)) == ((samples[2],), "x")
    with pytest.raises(InputError, match=r"there are several \(test, train, x\)"):
        choose_samples(samples, None, ("val",))
    with pytest.raises(InputError, match="no such split"):
        choose_samples(samples, "y", ("train",))
