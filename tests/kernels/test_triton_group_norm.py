"""Group normalisation by Triton against float64: on a GPU with ``make gpu``, elsewhere interpreted.

``test_triton_interpreter.py`` runs this file in a process of its own.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import group_norm
from kernels.group_norm.tiles import GroupTiles
from tests.kernels import plain
from tests.kernels.cases import NormCase, norm_input
from tests.kernels.device import DEVICE, on_device
from tests.tolerances import assert_as_accurate

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

EPS = 1e-5
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Small, so that small inputs have several tiles: one launch that keeps its tile, one that reads it again, two launches
# with chunks of one tile and of two, each for a group and for adjoining groups.
KEPT = GroupTiles(1, 8, 64, 64, 1)
AGAIN = GroupTiles(1, 4, 16, 64, 1)
CHUNKS = GroupTiles(1, 8, 16, 16, 1)
LONG_CHUNKS = GroupTiles(1, 4, 16, 32, 1)
SEVERAL_KEPT = GroupTiles(3, 32, 64, 64, 1)
SEVERAL_AGAIN = GroupTiles(3, 32, 16, 64, 1)
SEVERAL_CHUNKS = GroupTiles(2, 16, 16, 16, 1)
SEVERAL_LONG_CHUNKS = GroupTiles(3, 32, 16, 32, 1)
EVERY_TILES = (KEPT, AGAIN, CHUNKS, LONG_CHUNKS, SEVERAL_KEPT, SEVERAL_AGAIN, SEVERAL_CHUNKS, SEVERAL_LONG_CHUNKS)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_tiles = pytest.mark.parametrize("tiles", EVERY_TILES, ids=lambda t: "-".join(map(str, vars(t).values())))
every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels last", "channels last surrounded"])


def launch(x: Tensor, groups: int, weight: Tensor, bias: Tensor, silu: bool, tiles: GroupTiles | None) -> Tensor:
    from kernels.group_norm import triton as triton_group_norm

    layout = torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        layout = torch.channels_last
    return triton_group_norm.group_norm(x, groups, weight, bias, EPS, silu, layout, tiles=tiles)


def assert_normalised(out: Tensor, x: Tensor, groups: int, weight: Tensor, bias: Tensor, silu: bool) -> None:
    exact = plain.group_norm(x.double(), groups, weight.double(), bias.double(), EPS, silu)
    same = plain.group_norm(x, groups, weight, bias, EPS, silu)
    magnitude = plain.group_norm_terms(x, groups, weight, bias, EPS)
    assert_as_accurate(out, same, exact, per=(0, 1), magnitude=magnitude)


@every_tiles
@every_layout
def test_group_norm_is_as_accurate_as_plain_pytorch(layout: str, tiles: GroupTiles) -> None:
    turn = EVERY_TILES.index(tiles) + len(layout)
    x, weight, bias = on_device(*norm_input(NormCase(1 + turn % 2, 20, 9, 5, 4, layout), DTYPES[turn % 3]))
    out = launch(x, 4, weight, bias, turn % 4 < 2, tiles)
    assert_normalised(out, x, 4, weight, bias, turn % 4 < 2)
    assert out.is_contiguous(memory_format=torch.channels_last) == (layout == "channels last")


@every_dtype
@every_layout
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("tiles", [KEPT, SEVERAL_LONG_CHUNKS], ids=["one launch", "two"])
def test_every_dtype_is_as_accurate_as_plain_pytorch(
    tiles: GroupTiles, silu: bool, layout: str, dtype: torch.dtype
) -> None:
    x, weight, bias = on_device(*norm_input(NormCase(1, 24, 7, 7, 3, layout), dtype))
    assert_normalised(launch(x, 3, weight, bias, silu, tiles), x, 3, weight, bias, silu)


@every_tiles
@pytest.mark.parametrize("mean", [1e3, -3e4])
def test_variance_survives_a_large_mean(mean: float, tiles: GroupTiles) -> None:
    layout = "contiguous" if mean > 0 else "channels last"
    x, weight, bias = on_device(*norm_input(NormCase(1, 24, 7, 7, 4, layout), torch.float32, mean=mean))
    assert_normalised(launch(x, 4, weight, bias, False, tiles), x, 4, weight, bias, False)


@every_tiles
def test_constant_groups_give_the_bias_exactly(tiles: GroupTiles) -> None:
    x, weight, bias = on_device(*norm_input(NormCase(3, 12, 9, 7, 3), torch.float32))
    constants = 1000 * torch.rand(3, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x = constants.repeat_interleave(4, 1)[:, :, None, None].expand(x.shape).contiguous()
    assert torch.equal(launch(x, 3, weight, bias, False, tiles), bias[:, None, None].expand(x.shape))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@every_tiles
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_group(value: float, tiles: GroupTiles) -> None:
    x, weight, bias = on_device(*norm_input(NormCase(2, 12, 4, 9, 3, "channels last"), torch.float32))
    x[1, 5, 2, 3] = value
    lost = launch(x, 3, weight, bias, True, tiles).isnan()
    assert lost[1, 4:8].all()
    assert int(lost.sum()) == 4 * 36


@every_tiles
def test_two_runs_agree_bit_for_bit(tiles: GroupTiles) -> None:
    x, weight, bias = on_device(*norm_input(NormCase(1, 20, 7, 7, 4), torch.float16))
    first = launch(x, 4, weight, bias, True, tiles)
    for _ in range(1 if DEVICE == "cpu" else 50):
        assert torch.equal(launch(x, 4, weight, bias, True, tiles), first)


@every_dtype
@pytest.mark.parametrize(
    "case", [NormCase(2, 10, 3, 5, 2), NormCase(1, 12, 1, 1, 3), NormCase(1, 18, 9, 1, 3, "channels last")], ids=str
)
def test_public_function_chooses_tiles_that_hold_the_shape(case: NormCase, dtype: torch.dtype) -> None:
    x, weight, bias = on_device(*norm_input(case, dtype))
    out = group_norm(x, case.groups, weight, bias, eps=EPS, silu=True, impl="triton")
    assert_normalised(out, x, case.groups, weight, bias, True)


@pytest.mark.parametrize("columns", [8, 16])
def test_groups_wider_than_a_tile_are_taken_in_pieces(columns: int) -> None:
    x, weight, bias = on_device(*norm_input(NormCase(1, 42, 5, 4, 2, "channels last"), torch.float32))
    for chunk in (8, 32):
        out = launch(x, 2, weight, bias, True, GroupTiles(1, columns, 8, chunk, 1))
        assert_normalised(out, x, 2, weight, bias, True)


@pytest.mark.skipif(DEVICE != "cpu", reason="needs memory that is only reserved")
@pytest.mark.parametrize("tiles", [KEPT, CHUNKS], ids=["one launch", "two"])
def test_offsets_beyond_32_bits_are_followed(tiles: GroupTiles) -> None:
    stride = 2**30 + 8  # a 32-bit number, and its double is not
    memory = torch.from_numpy(np.empty(2 * stride + 1024, dtype=np.float16))  # pages that nobody touches cost nothing
    x = memory.as_strided((3, 8, 4, 8), (stride, 32, 8, 1))
    values, weight, bias = norm_input(NormCase(3, 8, 4, 8, 2), torch.float16)
    x.copy_(values)
    assert_normalised(launch(x, 2, weight, bias, True, tiles), values, 2, weight, bias, True)


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
@every_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(
    ("channels", "side"), [(320, 64), (960, 64), (640, 32), (1280, 16), (2560, 16), (1280, 8), (128, 256), (320, 63)]
)
def test_stable_diffusion_shapes_on_the_device(
    channels: int, side: int, batch: int, layout: str, dtype: torch.dtype
) -> None:
    x, weight, bias = on_device(*norm_input(NormCase(batch, channels, side, side, 32, layout), dtype))
    runs = [group_norm(x, 32, weight, bias, eps=EPS, silu=True, impl="triton") for _ in range(3)]
    assert_normalised(runs[0], x, 32, weight, bias, True)
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.skipif(DEVICE == "cpu", reason="on the CPU it is no test of its own")
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_torch_on_the_device_keeps_the_layout_and_a_large_mean(layout: str) -> None:
    x, weight, bias = on_device(*norm_input(NormCase(2, 64, 17, 13, 4, layout), torch.float32, mean=1e3))
    out = group_norm(x, 4, weight, bias, eps=EPS, impl="torch")
    assert_normalised(out, x, 4, weight, bias, False)
    assert out.is_contiguous(memory_format=torch.channels_last) == (layout == "channels last")
