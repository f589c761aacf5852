"""AdaIN of attention features by Triton.

B batch, H heads, N queries, D columns of a head (HEAD_DIM), C classes. In names of strides z is the image, h the head,
m the query and d the column. Columns are held as two pieces, HEAD_DIM_0 and HEAD_DIM_1 (see ``kernels.head_widths``).
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.adain_features.tiles import BLOCK_M
from kernels.head_widths import split_width
from kernels.results import AttentionResult
from kernels.strides import alignment
from kernels.triton_tile_ops import device_of, emulates_bf16, load_tile, round_to, store_tile


@triton.jit
def _adapt_piece(
    x_base,  # of one image and head: [N, D], float16, bfloat16 or float32
    out_base,  # of one image and head: [N, D], x's dtype, written
    offs_m,  # [BLOCK_M]
    stride_xm,
    stride_xd,
    stride_om,
    member,  # [BLOCK_M], which rows are changed
    mask_m,  # [BLOCK_M], which rows exist
    statistics,  # [BLOCK_M], int64: where each row's class has its statistics
    query_mean_ptr,  # [B, H, C, D], float32, like the next three
    query_variance_ptr,
    key_mean_ptr,
    key_variance_ptr,
    eps,
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ALIGN: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    offs_d = OFFSET + tl.arange(0, WIDTH)
    x = load_tile(x_base, offs_m, stride_xm, stride_xd, mask_m, OFFSET, WIDTH, HEAD_DIM, False, ALIGN)
    offs = statistics[:, None] + offs_d[None, :]
    mask = member[:, None] & (offs_d < HEAD_DIM)[None, :]
    key_variance = tl.load(key_variance_ptr + offs, mask=mask, other=0.0)
    query_variance = tl.load(query_variance_ptr + offs, mask=mask, other=1.0)
    query_mean = tl.load(query_mean_ptr + offs, mask=mask, other=0.0)
    adapted = (x.to(tl.float32) - query_mean) * tl.sqrt((key_variance + eps) / (query_variance + eps))
    adapted += tl.load(key_mean_ptr + offs, mask=mask, other=0.0)
    out = tl.where(member[:, None], round_to(adapted, x.dtype, EMULATE_BF16), x)
    store_tile(out_base, out, offs_m, stride_om, 1, mask_m, OFFSET, WIDTH, HEAD_DIM, ALIGN)


@triton.jit(do_not_specialize=["H", "N", "num_classes"])
def adain_features_kernel(
    x_ptr,  # [B, H, N, D], float16, bfloat16 or float32
    out_ptr,  # [B, H, N, D], x's dtype, written; columns adjoin
    labels_ptr,  # [B, N], any integer type
    query_count_ptr,  # [B, C], int64
    query_mean_ptr,  # [B, H, C, D], float32
    query_variance_ptr,  # [B, H, C, D], float32
    key_count_ptr,  # [B, C], int64
    key_mean_ptr,  # [B, H, C, D], float32
    key_variance_ptr,  # [B, H, C, D], float32
    stride_xz,
    stride_xh,
    stride_xm,
    stride_xd,
    stride_oz,
    stride_oh,
    stride_om,
    stride_lz,
    stride_lm,
    H,
    N,
    num_classes,
    eps,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_0: tl.constexpr,
    HEAD_DIM_1: tl.constexpr,
    BLOCK_M: tl.constexpr,
    ALIGN: tl.constexpr,  # elements that strides of rows and heads are multiples of
    EMULATE_BF16: tl.constexpr,
):
    """BLOCK_M queries of one image and head."""
    # This program's image, head and queries.
    off_hz = tl.program_id(1)
    off_z = (off_hz // H).to(tl.int64)
    off_h = off_hz % H
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask_m = offs_m < N
    # Each row's class, and whether it has enough members on both sides.
    c = tl.load(labels_ptr + off_z * stride_lz + offs_m * stride_lm, mask=mask_m, other=0).to(tl.int32)
    known = mask_m & (c >= 0) & (c < num_classes)
    counts = off_z * num_classes + c
    enough = tl.load(query_count_ptr + counts, mask=known, other=0) >= 2
    enough &= tl.load(key_count_ptr + counts, mask=known, other=0) >= 2
    member = known & enough
    # The rows with their class's statistics.
    statistics = (off_hz * num_classes + c).to(tl.int64) * HEAD_DIM
    x_base = x_ptr + off_z * stride_xz + tl.multiple_of(off_h * stride_xh, ALIGN)
    out_base = out_ptr + off_z * stride_oz + tl.multiple_of(off_h * stride_oh, ALIGN)
    _adapt_piece(
        x_base,
        out_base,
        offs_m,
        stride_xm,
        stride_xd,
        stride_om,
        member,
        mask_m,
        statistics,
        query_mean_ptr,
        query_variance_ptr,
        key_mean_ptr,
        key_variance_ptr,
        eps,
        0,
        HEAD_DIM_0,
        HEAD_DIM,
        ALIGN,
        EMULATE_BF16,
    )
    if HEAD_DIM_1 > 0:
        _adapt_piece(
            x_base,
            out_base,
            offs_m,
            stride_xm,
            stride_xd,
            stride_om,
            member,
            mask_m,
            statistics,
            query_mean_ptr,
            query_variance_ptr,
            key_mean_ptr,
            key_variance_ptr,
            eps,
            HEAD_DIM_0,
            HEAD_DIM_1,
            HEAD_DIM,
            ALIGN,
            EMULATE_BF16,
        )


def adain_features(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """result.out [B, H, Nq, D] and labels [B, Nq] -> [B, H, Nq, D], in one launch."""
    batch, heads, queries, head_dim = result.out.shape
    out = result.out.new_empty(batch, queries, heads, head_dim).transpose(1, 2)
    head_dim_0, head_dim_1 = split_width(head_dim)
    with device_of(out):
        adain_features_kernel[(triton.cdiv(queries, BLOCK_M), batch * heads)](
            result.out,
            out,
            query_labels,
            result.query.count,
            result.query.mean,
            result.query.variance,
            result.key.count,
            result.key.mean,
            result.key.variance,
            *result.out.stride(),
            *out.stride()[:3],
            *query_labels.stride(),
            heads,
            queries,
            result.query.count.shape[1],
            float(eps),
            HEAD_DIM=head_dim,
            HEAD_DIM_0=head_dim_0,
            HEAD_DIM_1=head_dim_1,
            BLOCK_M=BLOCK_M,
            ALIGN=alignment(result.out, out),
            EMULATE_BF16=emulates_bf16(out.dtype),
            enable_fp_fusion=True,
        )
    return out
