"""Reading, multiplying and rounding tiles: what every kernel does the same way."""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def load_tile(
    base,
    rows,
    row_stride,
    column_stride,
    valid,
    OFFSET: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    EVERY_ROW: tl.constexpr,
):
    """Columns OFFSET.. of the given rows: [rows, COLUMNS]; 0 where a row is not valid or a column is past D."""
    columns = OFFSET + tl.arange(0, COLUMNS)
    pointers = base + rows[:, None] * row_stride + columns[None, :] * column_stride
    if EVERY_ROW and OFFSET + COLUMNS <= D:
        tile = tl.load(pointers)
    elif EVERY_ROW:
        tile = tl.load(pointers, mask=(columns < D)[None, :], other=0.0)
    else:
        tile = tl.load(pointers, mask=valid[:, None] & (columns < D)[None, :], other=0.0)
    return tile


@triton.jit
def dot(a, b, c, PRECISION: tl.constexpr, EMULATE: tl.constexpr):
    """a b + c, accumulated in float32."""
    if EMULATE:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, c, input_precision=PRECISION)


@triton.jit
def narrowed(x, dtype: tl.constexpr, EMULATE: tl.constexpr):
    """The float32 tile x rounded to nearest in ``dtype``."""
    if EMULATE:
        bits = x.to(tl.uint32, bitcast=True)
        x = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return x.to(dtype)


def emulates(dtype: torch.dtype) -> bool:
    """Whether ``EMULATE`` is wanted.

    Triton's interpreter multiplies the bits of bfloat16 as integers and truncates where GPUs round to nearest.
    """
    return dtype == torch.bfloat16 and not isinstance(dot, triton.JITFunction)


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make x's GPU the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
