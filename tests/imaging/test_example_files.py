from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from imaging.images import read_image
from imaging.labels import read_label_set

EXAMPLES = Path(__file__).parents[2] / "examples"
MASKS = ("ihc_mask.png", "target_a.png", "target_b.png", "target_c.png")


def test_image_is_the_one_whose_origin_is_told() -> None:
    digest = hashlib.sha256((EXAMPLES / "ihc.png").read_bytes()).hexdigest()
    assert digest in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("folder", "side"), [(EXAMPLES, 512), (EXAMPLES / "small", 256)])
def test_masks_have_the_images_size_and_two_classes_of_like_shares(folder: Path, side: int) -> None:
    assert read_image(folder / "ihc.png").shape == (side, side, 3)
    masks = read_label_set([folder / name for name in MASKS], None)
    assert len(masks.classes) == 2
    assert masks.notes == ()
    shares = [float((labels == 0).mean()) for labels in masks.maps]
    for labels, share in zip(masks.maps, shares, strict=True):
        assert labels.shape == (side, side)
        assert abs(share - shares[0]) < 0.05


@pytest.mark.parametrize("folder", [EXAMPLES, EXAMPLES / "small"])
def test_epithelium_is_brown_and_stroma_blue(folder: Path) -> None:
    image = read_image(folder / "ihc.png").astype(np.int64)
    labels = read_label_set([folder / "ihc_mask.png"], None).maps[0]
    red_over_blue = image[..., 0] - image[..., 2]
    assert np.median(red_over_blue[labels == 0]) > 30
    assert np.median(red_over_blue[labels == 1]) < 5


def test_small_example_is_cut_from_the_large_one() -> None:
    square = (slice(150, 406), slice(162, 418))
    np.testing.assert_array_equal(read_image(EXAMPLES / "small/ihc.png"), read_image(EXAMPLES / "ihc.png")[square])
    large, small = read_label_set([EXAMPLES / "ihc_mask.png", EXAMPLES / "small/ihc_mask.png"], None).maps
    np.testing.assert_array_equal(small, large[square])
