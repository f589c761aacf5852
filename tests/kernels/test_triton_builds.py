"""Ahead-of-time builds of the shipped kernels for every GPU generation: no spills, shared memory, tensor cores.

A build takes seconds: a default run makes the kernel that a swapped layer launches, ``make slow`` every other variant.
"""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not built", allow_module_level=True)

from builds import Build, build, build_smaller_kernels

from kernels.cross_image_attention.tiles import SHARED_MEMORY, choose_tiles

# (head width, tokens) of SD-1.5's layers at 512 x 512.
SHAPES = {40: 4096, 80: 1024, 160: 256}
TENSOR_CORES = {90: "wgmma.mma_async", 100: "tcgen05.mma"}
MULTIPROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}


def shipped(width: int, architecture: int, dtype: str, batch: int = 1, **options: bool) -> Build:
    itemsize = 4 if dtype == "float32" else 2
    tiles = choose_tiles(width, itemsize, architecture, MULTIPROCESSORS[architecture], batch * 8, SHAPES[width])
    return build(width, dtype, tiles, architecture, **options)


def assert_sound(made: Build, architecture: int) -> None:
    assert (made.stack, made.local) == (0, 0), "registers spill"
    assert made.shared <= SHARED_MEMORY[architecture]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", list(SHARED_MEMORY))
@pytest.mark.parametrize("width", list(SHAPES))
def test_shipped_kernel_fits_the_chip_and_uses_tensor_cores(width: int, architecture: int, dtype: str) -> None:
    made = shipped(width, architecture, dtype)
    assert_sound(made, architecture)
    assert TENSOR_CORES.get(architecture, "mma.sync.aligned.m16n8k16") in made.ptx
    assert "cp.async.cg.shared.global" in made.ptx  # loads of 16 bytes, in flight while products run


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list(SHARED_MEMORY))
@pytest.mark.parametrize("width", list(SHAPES))
@pytest.mark.parametrize(
    "options",
    [
        {"contrast": False},
        {"contrast": False, "statistics": False},
        {"statistics": False},
        {"within_class": True},
        {"within_class": True, "even": False},
    ],
    ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()),
)
def test_every_variant_fits_the_chip(width: int, architecture: int, options: dict[str, bool]) -> None:
    assert_sound(shipped(width, architecture, "float16", **options), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list(SHARED_MEMORY))
@pytest.mark.parametrize("width", [40, 80])
def test_tiles_for_eight_images_fit_the_chip(width: int, architecture: int) -> None:
    assert_sound(shipped(width, architecture, "float16", batch=8), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 86, 90])
@pytest.mark.parametrize("width", list(SHAPES))
def test_float32_fits_shared_memory(width: int, architecture: int) -> None:
    assert shipped(width, architecture, "float32").shared <= SHARED_MEMORY[architecture]


@pytest.mark.parametrize(
    ("width", "architecture"),
    [(40, 90), *(pytest.param(w, a, marks=pytest.mark.slow) for w in SHAPES for a in (80, 120))],
)
def test_adain_fits_the_chip(width: int, architecture: int) -> None:
    for made in build_smaller_kernels(width, "float16", architecture).values():
        assert_sound(made, architecture)


def test_sharpening_clip_is_one_instruction_a_score() -> None:
    made = build(40, "float16", choose_tiles(40, 2, 90, 132, 8, 4096), 90, sass=True)
    assert "FFMA.SAT" in made.sass
