"""A drawn world has one assay, slides that keep to their split, and annotators who nearly agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commands.samples import read_samples
from dataset.procedural import draw_world, farther
from evaluation.samples import load_image, load_labels
from imaging.classes import ClassMap

CLASSES = ClassMap.parse("epithelium=0,stroma=1")


def test_slides_keep_to_their_split_and_are_the_same_again(tmp_path: Path) -> None:
    one, other = (draw_world(tmp_path / name, slides=(4, 2, 3), patches=2, side=64, seed=3) for name in "ab")
    samples = read_samples(one.annotated).samples
    slides: dict[str, set[str]] = {}
    for each in samples:
        slides.setdefault(each.slide, set()).add(each.split)
    assert [sorted(each) for each in slides.values()] == [["train"]] * 4 + [["val"]] * 2
    tests = read_samples(one.test).samples
    assert len({each.slide for each in tests}) == 3
    assert len(tests) == 6
    assert not {each.slide for each in tests} & set(slides)
    for mine, theirs in zip(tests, read_samples(other.test).samples, strict=True):
        assert np.array_equal(load_image(mine), load_image(theirs))


def test_annotators_differ_at_borders_alone(tmp_path: Path) -> None:
    drawn = draw_world(tmp_path, slides=(1, 1, 4), side=128)
    for each in read_samples(drawn.test).samples:
        a, b, c = (load_labels(each, CLASSES, name) for name in "abc")
        for one, two in ((a, b), (a, c), (b, c)):
            assert 0.0 < (one != two).mean() < 0.15


def test_more_variation_sets_stains_farther_apart() -> None:
    stain, mean = np.array([0.8, 0.5, 0.3], np.float32), (0.7, 0.6, 0.3)
    assert farther(stain, mean, 2.0).tolist() == pytest.approx([0.9, 0.4, 0.3])
    assert farther(stain, mean, 1.0).tolist() == pytest.approx(stain.tolist())
    assert farther(stain, mean, 10.0).min() == pytest.approx(0.01)


def test_variation_leaves_label_maps_as_they_were(tmp_path: Path) -> None:
    one, other = (draw_world(tmp_path / str(v), slides=(3, 1, 1), side=64, variation=v) for v in (1.0, 2.0))
    for mine, theirs in zip(read_samples(one.annotated).samples, read_samples(other.annotated).samples, strict=True):
        assert np.array_equal(load_labels(mine, CLASSES), load_labels(theirs, CLASSES))
        assert not np.array_equal(load_image(mine), load_image(theirs))
