"""Reading, multiplying, rounding and writing tiles: what every kernel does the same way."""

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
    base,  # pointer to a matrix [M, HEAD_DIM] of any dtype
    offs_m,  # [BLOCK_M], its rows
    stride_m,
    stride_d,
    mask_m,  # [BLOCK_M], which of the rows exist; not looked at with EVEN_M
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    EVEN_M: tl.constexpr,
    ALIGN: tl.constexpr,  # elements that stride_m is a multiple of
):
    """Columns OFFSET.. of the given rows: [BLOCK_M, WIDTH]; 0 past the rows and past HEAD_DIM."""
    offs_d = OFFSET + tl.arange(0, WIDTH)
    # On the product: of a stride that is no multiple of 16 Triton keeps no such promise.
    rows = tl.multiple_of(offs_m * stride_m, ALIGN)
    ptrs = base + rows[:, None] + offs_d[None, :] * stride_d
    if EVEN_M and OFFSET + WIDTH <= HEAD_DIM:
        tile = tl.load(ptrs)
    elif EVEN_M:
        tile = tl.load(ptrs, mask=(offs_d < HEAD_DIM)[None, :], other=0.0)
    else:
        tile = tl.load(ptrs, mask=mask_m[:, None] & (offs_d < HEAD_DIM)[None, :], other=0.0)
    return tile


@triton.jit
def store_tile(
    base,  # pointer to a matrix [M, HEAD_DIM]
    tile,  # [BLOCK_M, WIDTH], in the matrix's dtype
    offs_m,  # [BLOCK_M]
    stride_m,
    stride_d,
    mask_m,  # [BLOCK_M]
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ALIGN: tl.constexpr,  # elements that stride_m is a multiple of
):
    """Write columns OFFSET.. of the given rows, where a row exists and a column is not past HEAD_DIM."""
    offs_d = OFFSET + tl.arange(0, WIDTH)
    rows = tl.multiple_of(offs_m * stride_m, ALIGN)
    ptrs = base + rows[:, None] + offs_d[None, :] * stride_d
    tl.store(ptrs, tile, mask=mask_m[:, None] & (offs_d < HEAD_DIM)[None, :])


@triton.jit
def dot(a, b, acc, INPUT_PRECISION: tl.constexpr, EMULATE_BF16: tl.constexpr):
    """a b + acc, accumulated in float32."""
    if EMULATE_BF16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=INPUT_PRECISION)


@triton.jit
def round_to(x, dtype: tl.constexpr, EMULATE_BF16: tl.constexpr):
    """The float32 tile x rounded to nearest in ``dtype``."""
    if EMULATE_BF16:
        bits = x.to(tl.uint32, bitcast=True)
        x = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return x.to(dtype)


def emulates_bf16(dtype: torch.dtype) -> bool:
    """Whether a kernel for ``dtype`` needs ``EMULATE_BF16``.

    Triton's interpreter multiplies the bits of bfloat16 as integers and truncates where GPUs round to nearest.
    """
    return dtype == torch.bfloat16 and not isinstance(dot, triton.JITFunction)


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make x's GPU the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
