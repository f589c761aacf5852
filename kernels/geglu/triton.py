"""GEGLU by Triton: both halves are read once, the product is rounded once.

M rows, N columns of either half. In names of strides m is the row and n the column.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.geglu.tiles import BLOCK_M, BLOCK_N, NUM_WARPS
from kernels.strides import folded_stride
from kernels.triton_tile_ops import device_of, emulates_bf16, round_to


@triton.jit(do_not_specialize=["M", "n_tiles"])
def geglu_kernel(
    projected_ptr,  # [M, 2·N], float16, bfloat16 or float32: values, then gates
    out_ptr,  # [M, N], projected's dtype, written; contiguous
    stride_pm,
    stride_pn,
    M,
    N,
    n_tiles,  # programs of one block of rows, which follow each other
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    """BLOCK_M x BLOCK_N of the output."""
    offs_m = tl.program_id(0) // n_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(0) % n_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    offs_m = offs_m.to(tl.int64)
    value_ptrs = projected_ptr + (offs_m * stride_pm)[:, None] + (offs_n.to(tl.int64) * stride_pn)[None, :]
    value = tl.load(value_ptrs, mask=mask, other=0.0).to(tl.float32)
    gate_ptrs = value_ptrs + tl.cast(N, tl.int64) * stride_pn
    gate = tl.load(gate_ptrs, mask=mask, other=0.0).to(tl.float32)
    out = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    out_ptrs = out_ptr + (offs_m * N)[:, None] + offs_n[None, :]
    tl.store(out_ptrs, round_to(out, out_ptr.dtype.element_ty, EMULATE_BF16), mask=mask)


def geglu(projected: Tensor) -> Tensor:
    """projected [..., 2·C] -> [..., C], in one launch."""
    columns = projected.shape[-1] // 2
    out = projected.new_empty(*projected.shape[:-1], columns)
    rows, n_tiles = out.numel() // columns, triton.cdiv(columns, BLOCK_N)
    with device_of(projected):
        geglu_kernel[(triton.cdiv(rows, BLOCK_M) * n_tiles,)](
            projected,
            out,
            folded_stride(projected, 0, projected.ndim - 1),
            projected.stride(-1),
            rows,
            columns,
            n_tiles,
            BLOCK_M=BLOCK_M,
            BLOCK_N=BLOCK_N,
            EMULATE_BF16=emulates_bf16(projected.dtype),
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
    return out
