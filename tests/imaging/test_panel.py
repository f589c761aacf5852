from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.panel import PALETTE, colour, paint, panel


def example(height: int, width: int, classes: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, classes, (height, width))


def find(sheet: NDArray[np.uint8], tile: NDArray[np.uint8]) -> tuple[int, int]:
    """Row and column where ``tile`` lies in ``sheet``; fails if it lies nowhere."""
    height, width = tile.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (4, 4), axis=(0, 1))
    places = np.argwhere((windows == tile[:4, :4].transpose(2, 0, 1)).all(axis=(2, 3, 4)))
    for row, column in places:
        if np.array_equal(sheet[row : row + height, column : column + width], tile):
            return int(row), int(column)
    pytest.fail("tile not in the panel")


@pytest.mark.parametrize("target", [(48, 64), (80, 40), (16, 16)])
def test_four_tiles_stand_side_by_side_unscaled(target: tuple[int, int]) -> None:
    origin, origin_labels = example(48, 64, 3, 0)
    result, target_labels = example(*target, 3, 1)
    sheet = panel([origin], [origin_labels], target_labels, result, ["epithelium", "stroma", "lumen"])
    assert sheet.dtype == np.uint8
    tiles = [origin, paint(origin_labels, 3), paint(target_labels, 3), result]
    places = [find(sheet, tile) for tile in tiles]
    assert len({row for row, _ in places}) == 1
    columns = [column for _, column in places]
    for (left, right), tile in zip(pairwise(columns), tiles[:-1], strict=True):
        assert left + tile.shape[1] < right
    assert (sheet[: places[0][0]] < 128).any(), "no captions above the tiles"


def test_foregrounds_that_were_found_stand_beside_what_they_were_found_in() -> None:
    origin, found = example(48, 64, 2, 0)
    result, target_labels = example(40, 80, 3, 1)
    target_found = target_labels == 2
    names = ["epithelium", "stroma", "lumen"]
    sheet = panel([origin], [], target_labels, result, names, foregrounds=(found == 1, target_found))
    painted = paint(target_labels, 3)
    pale = [255 - (255 - image) // 4 for image in (origin, painted)]
    shown = [
        np.where(mask[..., None], image, pale[n])
        for n, (image, mask) in enumerate(((origin, found == 1), (painted, target_found)))
    ]
    tiles = [origin, shown[0].astype(np.uint8), painted, shown[1].astype(np.uint8), result]
    columns = [find(sheet, tile)[1] for tile in tiles]
    assert columns == sorted(columns)
    with pytest.raises(ValueError, match="size"):
        panel([origin], [], target_labels, result, names, foregrounds=(target_found, target_found))


def test_every_class_has_its_colour_in_the_legend() -> None:
    image, _ = example(32, 32, 1, 0)
    blank = np.zeros((32, 32), dtype=np.int64)
    image[:] = 255
    sheet = panel([image], [blank], blank, image, [f"a class with a long name {index}" for index in range(10)])
    for index in range(10):
        assert (sheet == colour(index)).all(axis=2).sum() >= 12 * 12


def test_colours_differ_and_the_first_two_differ_in_brightness() -> None:
    colours = [colour(index) for index in range(32)]
    assert len(set(colours)) == 32
    assert colours[: len(PALETTE)] == list(PALETTE)
    brightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in colours[:2]]
    assert abs(brightness[0] - brightness[1]) > 50


def test_label_without_a_name_and_wrong_sizes_are_refused() -> None:
    image, labels = example(32, 32, 3, 0)
    with pytest.raises(ValueError, match="labels"):
        panel([image], [labels], labels, image, ["a"])
    with pytest.raises(ValueError, match="size"):
        panel([image], [labels[:-1]], labels, image, ["a", "b", "c"])
