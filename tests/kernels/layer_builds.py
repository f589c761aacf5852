"""Ahead-of-time builds of group normalisation and GEGLU, as launches at SD-1.5's shapes make them."""

from __future__ import annotations

from math import gcd
from typing import Any

from builds import Build, compiled

from kernels.geglu.tiles import BLOCK_M, BLOCK_N, NUM_WARPS
from kernels.geglu.triton import geglu_kernel
from kernels.group_norm.tiles import choose_group_tiles, power_of_two
from kernels.group_norm.triton_kernels import group_moments_kernel, group_norm_kernel, group_output_kernel

ALIGNED = frozenset({"P", "chunk_size", "N", "stride_xp", "stride_op", "stride_xc", "stride_oc", "stride_pm"})
ITEMSIZES = {"float16": 2, "bfloat16": 2, "float32": 4}


def build_group_norm(
    channels: int,
    side: int,
    dtype: str,
    architecture: int,
    *,
    channels_last: bool,
    batch: int = 1,
    silu: bool = True,
    multiprocessors: int = 132,
) -> dict[str, Build]:
    """The one kernel or the two that normalise 32 groups of a grid of side x side positions."""
    width, positions = channels // 32, side * side
    tiles = choose_group_tiles(
        batch, 32, width, positions, ITEMSIZES[dtype], channels_last=channels_last, multiprocessors=multiprocessors
    )
    unit = ("stride_xc", "stride_oc") if channels_last else ("stride_xp", "stride_op")
    shape = dict.fromkeys(unit, 1) | {
        "PROGRAM_GROUPS": tiles.groups,
        "GROUP_CHANNELS": width,
        "BLOCK_G": power_of_two(tiles.groups),
        "BLOCK_C": tiles.block_c,
        "BLOCK_P": tiles.block_p,
        "ALIGN": gcd(16, tiles.groups * width, channels),
    }
    written: dict[str, Any] = {"SILU": silu, "EMULATE_BF16": False}
    if tiles.chunk >= positions:
        one_tile = tiles.block_p >= positions and tiles.block_c >= tiles.groups * width
        kernels = {"one launch": (group_norm_kernel, written | {"ONE_TILE": one_tile})}
    else:
        chunks = -(-positions // tiles.chunk)
        kernels = {
            "moments": (group_moments_kernel, {}),
            "output": (group_output_kernel, written | {"BLOCK_CHUNKS": power_of_two(chunks)}),
        }
    made = {}
    for name, (kernel, constants) in kernels.items():
        constants = {key: value for key, value in (shape | constants).items() if key in kernel.arg_names}
        options = {"num_warps": tiles.num_warps, "maxnreg": tiles.maxnreg}
        made[name] = compiled(kernel, constants, dtype, architecture, options, sass=False, aligned_sizes=ALIGNED)
    return made


def build_geglu(dtype: str, architecture: int) -> Build:
    """GEGLU of contiguous rows."""
    constants = {"stride_pn": 1, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "EMULATE_BF16": False}
    options = {"num_warps": NUM_WARPS}
    return compiled(geglu_kernel, constants, dtype, architecture, options, sass=False, aligned_sizes=ALIGNED)
