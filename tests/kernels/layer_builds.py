"""Ahead-of-time builds of group normalisation and GEGLU, as launches at SD-1.5's shapes make them."""

from __future__ import annotations

from math import gcd
from typing import Any

from builds import Build, compiled

from kernels.geglu.triton import geglu_kernel
from kernels.group_norm.tiles import GATED_COLUMNS, GATED_ROWS, GATED_WARPS, choose_group_tiles, power_of_two
from kernels.group_norm.triton_kernels import group_moments_kernel, group_norm_kernel, group_output_kernel

ALIGNED = frozenset({"positions", "chunk_positions", "columns", "x_column", "out_column"})
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
    unit = ("x_column", "out_column") if channels_last else ("x_row", "out_row")
    shape = dict.fromkeys(unit, 1) | {
        "GROUPS": tiles.groups,
        "CHANNELS": width,
        "HELD": power_of_two(tiles.groups),
        "COLUMNS": tiles.columns,
        "POSITIONS": tiles.positions,
        "ALIGN": gcd(16, tiles.groups * width, channels),
    }
    written: dict[str, Any] = {"SILU": silu, "EMULATE": False}
    if tiles.chunk >= positions:
        whole = tiles.positions >= positions and tiles.columns >= tiles.groups * width
        kernels = {"one launch": (group_norm_kernel, written | {"WHOLE": whole})}
    else:
        chunks = -(-positions // tiles.chunk)
        kernels = {
            "moments": (group_moments_kernel, {}),
            "output": (group_output_kernel, written | {"CHUNKS": power_of_two(chunks)}),
        }
    made = {}
    for name, (kernel, constants) in kernels.items():
        constants = {key: value for key, value in (shape | constants).items() if key in kernel.arg_names}
        options = {"num_warps": tiles.warps, "maxnreg": tiles.registers}
        made[name] = compiled(kernel, constants, dtype, architecture, options, sass=False, aligned_sizes=ALIGNED)
    return made


def build_geglu(dtype: str, architecture: int) -> Build:
    """GEGLU of contiguous rows."""
    constants = {"projected_column": 1, "ROWS": GATED_ROWS, "COLUMNS": GATED_COLUMNS, "EMULATE": False}
    options = {"num_warps": GATED_WARPS}
    return compiled(geglu_kernel, constants, dtype, architecture, options, sass=False, aligned_sizes=ALIGNED)
