"""Ahead-of-time builds of the shipped kernels for every GPU generation: no spills, shared memory, tensor cores.

A build takes seconds: a default run makes the kernel that a swapped layer launches, ``make slow`` every other variant.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not built", allow_module_level=True)

from benchmarks.machine_code import read_code
from kernels.cross_image_attention.tiles import SHARED_MEMORY, choose_tiles
from tests.kernels.builds import Build, build_adain, build_attention, build_geglu, build_group_norm, build_merging

# (head width, tokens) of SD-1.5's layers at 512 x 512.
SHAPES = {40: 4096, 80: 1024, 160: 256}
TENSOR_CORES = {90: "wgmma.mma_async", 100: "tcgen05.mma"}
MULTIPROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}
DTYPES = ("float16", "bfloat16", "float32")
# (channels, side) of SD-1.5's UNet and autoencoder at 512 x 512.
NORM_SHAPES = ((320, 64), (640, 64), (960, 64), (1280, 32), (1920, 32), (1280, 16), (2560, 16), (1280, 8), (128, 512))

both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])


def shipped(width: int, architecture: int, dtype: str, **options: Any) -> Build:
    itemsize = 4 if dtype == "float32" else 2
    burdened = options.get("within_class", False) or options.get("skip", False)
    sizes = (width, itemsize, architecture, MULTIPROCESSORS[architecture], 8, SHAPES[width])
    tiles = choose_tiles(*sizes, burdened=burdened)
    return build_attention(width, dtype, tiles, architecture, **options)


def assert_sound(made: Build, architecture: int) -> None:
    assert (made.stack, made.local) == (0, 0), "registers spill"
    assert made.shared <= SHARED_MEMORY[architecture]


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", list(SHARED_MEMORY))
@pytest.mark.parametrize("width", list(SHAPES))
def test_shipped_kernel_fits_the_chip_and_uses_tensor_cores(width: int, architecture: int, dtype: str) -> None:
    made = shipped(width, architecture, dtype)
    assert_sound(made, architecture)
    assert TENSOR_CORES.get(architecture, "mma.sync.aligned.m16n8k16") in made.ptx
    assert "cp.async.cg.shared.global" in made.ptx  # loads of 16 bytes, in flight while products run


@pytest.mark.parametrize("width", [40, *(pytest.param(w, marks=pytest.mark.slow) for w in (80, 160))])
@pytest.mark.parametrize("options", [{}, {"skip": True}, {"apart": True}], ids=str)
def test_loads_are_in_flight_while_products_run(width: int, options: dict[str, bool]) -> None:
    code = read_code(shipped(width, 90, "float16", sass="hex", **options).sass)
    loops = [code.instructions[first : last + 1] for first, last in code.product_loops()]
    assert len(loops) == 2
    for loop in loops:
        assert any(each.opcode.startswith("LDGSTS") and ".128" in each.opcode for each in loop)
        waits = [each.operands for each in loop if each.name == "DEPBAR"]
        assert waits
        assert not any("0x0" in operands for operands in waits), "all copies are waited for"


PLAIN: tuple[dict[str, bool], ...] = (
    {},
    {"contrast": False},
    {"contrast": False, "statistics": False},
    {"statistics": False},
    {"even": False},
    {"even": False, "contrast": False},
    {"even_first": False},
)
BURDENED: tuple[dict[str, bool], ...] = (
    {"within_class": True},
    {"within_class": True, "even": False},
    {"within_class": True, "contrast": False},
    {"skip": True},
)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list(SHARED_MEMORY))
@pytest.mark.parametrize("width", list(SHAPES))
@pytest.mark.parametrize("queries", [64, 1 << 20], ids=["few queries", "many queries"])
@pytest.mark.parametrize("options", [*PLAIN, *BURDENED], ids=str)
def test_every_row_of_the_table_fits_the_chip_in_every_variant(
    width: int, architecture: int, queries: int, options: dict[str, bool]
) -> None:
    burdened = options in BURDENED
    if burdened and queries == 64:
        pytest.skip("one row whatever the queries")
    tiles = choose_tiles(width, 2, architecture, MULTIPROCESSORS[architecture], 8, queries, burdened=burdened)
    assert_sound(build_attention(width, "float16", tiles, architecture, **options), architecture)


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
    for made in build_adain(width, "float16", architecture).values():
        assert_sound(made, architecture)


@pytest.mark.parametrize("architecture", [90, *(pytest.param(a, marks=pytest.mark.slow) for a in (80, 86, 100, 120))])
@pytest.mark.parametrize("width", list(SHAPES))
def test_merging_fits_the_chip(width: int, architecture: int) -> None:
    assert_sound(build_merging(width, architecture), architecture)


def test_sharpening_clip_is_one_instruction_a_score() -> None:
    made = build_attention(40, "float16", choose_tiles(40, 2, 90, 132, 8, 4096), 90, sass=True)
    assert "FFMA.SAT" in made.sass


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
@pytest.mark.parametrize(("channels", "side"), NORM_SHAPES)
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
