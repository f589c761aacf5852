"""AdaIN of latents and of attention features by Triton.

B batch, C channels or classes, P positions, H heads, N queries, D head width.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.cross_image_attention.tiles import alignment, split_width
from kernels.results import AttentionResult
from kernels.triton_tile_ops import device_of, emulates, load_tile, narrowed

_POSITIONS = 1024  # of a channel, at once
_QUERIES = 64  # of attention features, at once
_CLASSES_PER_LAUNCH = 31  # the classes wanted are the bits of an int32
_SIZES = ("channels", "positions", "source_positions", "first_class", "classes", "wanted")


@triton.jit
def _class_moments(values, labels, c, positions, BLOCK: tl.constexpr):
    """Count, mean and unbiased variance of a channel over the positions of class c, in two passes."""
    count = 0.0
    total = 0.0
    for start in range(0, positions, BLOCK):
        at = start + tl.arange(0, BLOCK)
        member = (at < positions) & (tl.load(labels + at, mask=at < positions, other=0) == c)
        count += tl.sum(member.to(tl.float32), 0)
        total += tl.sum(tl.load(values + at, mask=member, other=0.0).to(tl.float32), 0)
    mean = total / tl.maximum(count, 1.0)
    squares = 0.0
    for start in range(0, positions, BLOCK):
        at = start + tl.arange(0, BLOCK)
        member = (at < positions) & (tl.load(labels + at, mask=at < positions, other=0) == c)
        deviation = tl.where(member, tl.load(values + at, mask=member, other=0.0).to(tl.float32) - mean, 0.0)
        squares += tl.sum(deviation * deviation, 0)
    return count, mean, squares / tl.maximum(count - 1.0, 1.0)


@triton.jit(do_not_specialize=_SIZES)
def masked_adain_kernel(
    z,
    source,
    z_labels,
    source_labels,
    z_batch,
    source_batch,
    source_channel,
    z_label_batch,
    source_label_batch,
    channels,
    positions,
    source_positions,
    first_class,
    classes,
    wanted,
    eps,
    BLOCK: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """One channel of one image, in place: every wanted class of first_class.. takes the source's statistics."""
    image = (tl.program_id(0) // channels).to(tl.int64)
    channel = tl.program_id(0) % channels
    values = z + image * z_batch + channel * positions
    labels = z_labels + image * z_label_batch
    source_values = source + image * source_batch + channel * source_channel
    source_labels += image * source_label_batch
    for bit in range(classes):
        if (wanted >> bit) & 1 == 1:
            c = first_class + bit
            count, mean, variance = _class_moments(values, labels, c, positions, BLOCK)
            source_count, source_mean, source_variance = _class_moments(
                source_values, source_labels, c, source_positions, BLOCK
            )
            if (count >= 2.0) & (source_count >= 2.0):
                scale = tl.sqrt((source_variance + eps) / (variance + eps))
                for start in range(0, positions, BLOCK):
                    at = start + tl.arange(0, BLOCK)
                    member = (at < positions) & (tl.load(labels + at, mask=at < positions, other=0) == c)
                    x = tl.load(values + at, mask=member, other=0.0).to(tl.float32)
                    moved = (x - mean) * scale + source_mean
                    tl.store(values + at, narrowed(moved, z.dtype.element_ty, EMULATE), mask=member)


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


def masked_adain(
    z: Tensor,
    source: Tensor,
    z_labels: Tensor,
    source_labels: Tensor,
    classes: tuple[int, ...],
    num_classes: int,
    eps: float,
) -> Tensor:
    """z [B, C, h, w], source [B, C, h', w'], labels [B, h, w] and [B, h', w'] -> [B, C, h, w].

    A copy of z, and one launch for every 31 classes.
    """
    batch, channels, height, width = z.shape
    result = z.clone(memory_format=torch.contiguous_format)
    origin = source.flatten(2)  # [B, C, P']
    if origin.stride(2) != 1:
        origin = origin.contiguous()
    here, there = z_labels.flatten(1), source_labels.flatten(1)  # [B, P], [B, P']
    if here.stride(1) != 1:
        here = here.contiguous()
    if there.stride(1) != 1:
        there = there.contiguous()
    with device_of(z):
        for first in range(0, num_classes, _CLASSES_PER_LAUNCH):
            wanted = sum(1 << (c - first) for c in classes if first <= c < first + _CLASSES_PER_LAUNCH)
            if wanted == 0:
                continue
            masked_adain_kernel[(batch * channels,)](
                result,
                origin,
                here,
                there,
                result.stride(0),
                origin.stride(0),
                origin.stride(1),
                here.stride(0),
                there.stride(0),
                channels,
                height * width,
                origin.shape[2],
                first,
                min(_CLASSES_PER_LAUNCH, num_classes - first),
                wanted,
                float(eps),
                BLOCK=_POSITIONS,
                EMULATE=emulates(z.dtype),
                enable_fp_fusion=True,
            )
    return result


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
