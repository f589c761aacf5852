"""AdaIN of attention features by Triton.

B batch, H heads, Nq queries, D head width, C classes.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.head_widths import split_width
from kernels.results import AttentionResult
from kernels.strides import alignment
from kernels.triton_tile_ops import device_of, emulates, load_tile, narrowed

_QUERIES = 64  # of attention features, at once


@triton.jit
def _adapt_piece(
    x_base,
    out_base,
    rows,
    x_row,
    x_column,
    out_row,
    member,
    valid,
    statistics,
    query_mean,
    query_variance,
    key_mean,
    key_variance,
    eps,
    OFFSET: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    EMULATE: tl.constexpr,
):
    columns = OFFSET + tl.arange(0, COLUMNS)
    x = load_tile(x_base, rows, x_row, x_column, valid, OFFSET, COLUMNS, D, False)
    at = statistics[:, None] + columns[None, :]
    mask = member[:, None] & (columns < D)[None, :]
    wanted = tl.load(key_variance + at, mask=mask, other=0.0)
    own = tl.load(query_variance + at, mask=mask, other=1.0)
    mean = tl.load(query_mean + at, mask=mask, other=0.0)
    moved = (x.to(tl.float32) - mean) * tl.sqrt((wanted + eps) / (own + eps))
    moved += tl.load(key_mean + at, mask=mask, other=0.0)
    adapted = tl.where(member[:, None], narrowed(moved, x.dtype, EMULATE), x)
    pointers = out_base + rows[:, None] * out_row + columns[None, :]
    tl.store(pointers, adapted, mask=valid[:, None] & (columns < D)[None, :])


@triton.jit(do_not_specialize=["heads", "queries", "classes"])
def adain_features_kernel(
    x,
    out,
    labels,
    query_count,
    query_mean,
    query_variance,
    key_count,
    key_mean,
    key_variance,
    x_batch,
    x_head,
    x_row,
    x_column,
    out_batch,
    out_head,
    out_row,
    label_batch,
    label_row,
    heads,
    queries,
    classes,
    eps,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    ROWS: tl.constexpr,
    ALIGN: tl.constexpr,
    EMULATE: tl.constexpr,
):
    image_head = tl.program_id(1)
    image = (image_head // heads).to(tl.int64)
    head = image_head % heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < queries
    c = tl.load(labels + image * label_batch + rows * label_row, mask=valid, other=0).to(tl.int32)
    known = valid & (c >= 0) & (c < classes)
    counts = image * classes + c
    enough = tl.load(query_count + counts, mask=known, other=0) >= 2
    enough &= tl.load(key_count + counts, mask=known, other=0) >= 2
    member = known & enough
    statistics = (image_head * classes + c).to(tl.int64) * D
    x_base = x + image * x_batch + tl.multiple_of(head * x_head, ALIGN)
    out_base = out + image * out_batch + tl.multiple_of(head * out_head, ALIGN)
    _adapt_piece(
        x_base,
        out_base,
        rows,
        x_row,
        x_column,
        out_row,
        member,
        valid,
        statistics,
        query_mean,
        query_variance,
        key_mean,
        key_variance,
        eps,
        0,
        FIRST,
        D,
        EMULATE,
    )
    if SECOND > 0:
        _adapt_piece(
            x_base,
            out_base,
            rows,
            x_row,
            x_column,
            out_row,
            member,
            valid,
            statistics,
            query_mean,
            query_variance,
            key_mean,
            key_variance,
            eps,
            FIRST,
            SECOND,
            D,
            EMULATE,
        )


def adain_features(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """result.out [B, H, Nq, D] and labels [B, Nq] -> [B, H, Nq, D], in one launch."""
    batch, heads, queries, width = result.out.shape
    out = result.out.new_empty(batch, queries, heads, width).transpose(1, 2)
    first, second = split_width(width)
    with device_of(out):
        adain_features_kernel[(triton.cdiv(queries, _QUERIES), batch * heads)](
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
            D=width,
            FIRST=first,
            SECOND=second,
            ROWS=_QUERIES,
            ALIGN=alignment(result.out, out),
            EMULATE=emulates(out.dtype),
            enable_fp_fusion=True,
        )
    return out
