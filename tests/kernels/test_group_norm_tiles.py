"""The choice of tiles for group normalisation, over the shapes of SD-1.5 and odd ones."""

from __future__ import annotations

import pytest

from kernels.group_norm.tiles import MOST_POSITIONS, MOST_STRIDE, choose_group_tiles, power_of_two

MULTIPROCESSORS = 132
SHAPES = [
    *((32, c // 32, side * side) for c in (320, 640, 960, 1280, 1920, 2560) for side in (64, 32, 16, 8)),
    *((32, c // 32, side * side) for c in (128, 256, 512) for side in (512, 64)),
    *((1, 1, 1), (3, 7, 1), (1, 2560, 63), (5, 3, 4095), (2, 129, 100_003), (7, 1, 300)),
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_tiles_hold_every_shape(batch: int, itemsize: int, channels_last: bool) -> None:
    for groups, width, positions in SHAPES:
        tiles = choose_group_tiles(
            batch,
            groups,
            width,
            positions,
            itemsize,
            channels_last=channels_last,
            multiprocessors=MULTIPROCESSORS,
        )
        assert tiles.groups == 1 or tiles.block_c >= tiles.groups * width
        assert tiles.chunk % tiles.block_p == 0
        assert tiles.block_c == power_of_two(tiles.block_c)
        assert tiles.block_p == power_of_two(tiles.block_p)
        assert tiles.block_c * tiles.block_p <= 16384
        assert tiles.block_c <= 128
        assert (tiles.block_p - 1) * MOST_STRIDE + (tiles.block_c - 1) * MOST_POSITIONS < 2**31
        assert -(-positions // tiles.chunk) <= 128  # partials that one program merges
        assert 4 <= tiles.num_warps <= 16


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "side"), [(320, 64), (640, 64), (1280, 32), (128, 512), (512, 64)])
def test_one_image_gives_every_multiprocessor_of_an_h100_work(channels: int, side: int, channels_last: bool) -> None:
    tiles = choose_group_tiles(
        1, 32, channels // 32, side * side, 2, channels_last=channels_last, multiprocessors=MULTIPROCESSORS
    )
    assert -(-32 // tiles.groups) * -(-side * side // tiles.chunk) >= MULTIPROCESSORS


@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_small_grids_take_one_launch(channels_last: bool, side: int) -> None:
    for width in (20, 40, 60, 80):
        tiles = choose_group_tiles(
            1, 32, width, side * side, 2, channels_last=channels_last, multiprocessors=MULTIPROCESSORS
        )
        assert tiles.chunk >= side * side


@pytest.mark.parametrize("width", [4, 8, 10, 16, 20, 30, 40, 60, 80])
def test_groups_of_channels_last_tiles_begin_at_sixteen_bytes(width: int) -> None:
    tiles = choose_group_tiles(1, 32, width, 4096, 2, channels_last=True, multiprocessors=MULTIPROCESSORS)
    assert tiles.groups * width * 2 % 16 == 0
