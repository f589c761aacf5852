"""GEGLU by Triton: both halves are read once, the product is rounded once.

R rows, C columns of either half.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.group_norm.tiles import GATED_COLUMNS, GATED_ROWS, GATED_WARPS
from kernels.strides import folded_stride
from kernels.triton_tile_ops import device_of, emulates, narrowed


@triton.jit(do_not_specialize=["rows", "blocks"])
def geglu_kernel(
    projected,
    out,
    projected_row,
    projected_column,
    rows,
    columns,
    blocks,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """ROWS x COLUMNS of out [R, C]; programs of one block of rows follow each other."""
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    valid = (row < rows)[:, None] & (column < columns)[None, :]
    row = row.to(tl.int64)
    values = projected + (row * projected_row)[:, None] + (column.to(tl.int64) * projected_column)[None, :]
    value = tl.load(values, mask=valid, other=0.0).to(tl.float32)
    gates = values + tl.cast(columns, tl.int64) * projected_column
    gate = tl.load(gates, mask=valid, other=0.0).to(tl.float32)
    gated = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    tl.store(
        out + (row * columns)[:, None] + column[None, :], narrowed(gated, out.dtype.element_ty, EMULATE), mask=valid
    )


def geglu(projected: Tensor) -> Tensor:
    """projected [..., 2·C] -> [..., C], in one launch."""
    columns = projected.shape[-1] // 2
    out = projected.new_empty(*projected.shape[:-1], columns)
    rows, blocks = out.numel() // columns, triton.cdiv(columns, GATED_COLUMNS)
    with device_of(projected):
        geglu_kernel[(triton.cdiv(rows, GATED_ROWS) * blocks,)](
            projected,
            out,
            folded_stride(projected, 0, projected.ndim - 1),
            projected.stride(-1),
            rows,
            columns,
            blocks,
            ROWS=GATED_ROWS,
            COLUMNS=GATED_COLUMNS,
            EMULATE=emulates(projected.dtype),
            num_warps=GATED_WARPS,
            enable_fp_fusion=True,
        )
    return out
