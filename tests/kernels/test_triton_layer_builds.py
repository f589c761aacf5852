"""Ahead-of-time builds of group normalisation and GEGLU: no spills, and loads and stores of 16 bytes.

A default run builds for one GPU; ``make slow`` for all of them, more shapes and every dtype.
"""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not built", allow_module_level=True)

from builds import Build
from layer_builds import build_geglu, build_group_norm

from kernels.cross_image_attention.tiles import SHARED_MEMORY

DTYPES = ("float16", "bfloat16", "float32")
# (channels, side) of SD-1.5's UNet and autoencoder at 512 x 512.
SHAPES = ((320, 64), (640, 64), (960, 64), (1280, 32), (1920, 32), (1280, 16), (2560, 16), (1280, 8), (128, 512))

both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])


def assert_sound(made: Build, architecture: int) -> None:
    assert (made.stack, made.local) == (0, 0), "registers spill"
    assert made.shared <= SHARED_MEMORY[architecture]


def assert_wide(made: Build, *, reads: bool = True, writes: bool = True) -> None:
    assert not reads or "ld.global.v4.b32" in made.ptx
    assert not writes or "st.global.v4.b32" in made.ptx


@both_layouts
@pytest.mark.parametrize(("channels", "side"), [(320, 64), (1280, 16)])
def test_group_norm_of_a_swapped_layer_moves_sixteen_bytes_at_once(
    channels: int, side: int, channels_last: bool
) -> None:
    made = build_group_norm(channels, side, "float16", 90, channels_last=channels_last)
    assert set(made) == ({"one launch"} if side == 16 else {"moments", "output"})
    for name, kernel in made.items():
        assert_sound(kernel, 90)
        assert_wide(kernel, writes=name != "moments")


@pytest.mark.slow
@both_layouts
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", list(SHARED_MEMORY))
@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_group_norm_fits_every_chip(
    channels: int, side: int, architecture: int, dtype: str, channels_last: bool
) -> None:
    for name, kernel in build_group_norm(channels, side, dtype, architecture, channels_last=channels_last).items():
        assert_sound(kernel, architecture)
        assert_wide(kernel, writes=name != "moments")


@pytest.mark.slow
@both_layouts
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("architecture", [80, 90])
def test_group_norm_of_many_images_fits_the_chip(architecture: int, silu: bool, channels_last: bool) -> None:
    for channels, side in ((320, 64), (640, 32), (512, 256)):
        made = build_group_norm(
            channels, side, "float16", architecture, channels_last=channels_last, batch=8, silu=silu
        )
        for kernel in made.values():
            assert_sound(kernel, architecture)


@pytest.mark.parametrize("dtype", [DTYPES[0], *(pytest.param(d, marks=pytest.mark.slow) for d in DTYPES[1:])])
@pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=[] if a == 90 else [pytest.mark.slow]) for a in SHARED_MEMORY]
)
def test_geglu_fits_the_chip_and_moves_sixteen_bytes_at_once(architecture: int, dtype: str) -> None:
    made = build_geglu(dtype, architecture)
    assert_sound(made, architecture)
    assert_wide(made)
