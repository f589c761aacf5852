"""Counts, means and centred second moments of each class, merged across programs: the parts that kernels share.

Every tile of positions leaves one partial (count, mean, sum of squared deviations) per class in scratch memory.
Programs of one image and head draw tickets; the one that draws the last merges all partials in the order of the
tiles (Chan, Golub and LeVeque's formula), so the result does not depend on the order in which programs ran, and
no floating-point atomic is needed.

B batch, H heads, N positions, D width, C classes, T tiles. Widths that are not powers of two are held as two
pieces of FIRST and SECOND columns; where SECOND is 0 the second piece is an unused copy of the first.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.results import ClassStatistics

MERGED_TILES = 32  # partials that are merged at once


@triton.jit
def _store_piece(x, member, count, base, OFFSET: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr):
    columns = OFFSET + tl.arange(0, COLUMNS)
    mean = tl.sum(tl.where(member[:, None], x, 0.0), 0) / tl.maximum(count, 1.0)
    deviation = tl.where(member[:, None], x - mean[None, :], 0.0)
    tl.store(base + columns, mean, mask=columns < D)
    tl.store(base + D + columns, tl.sum(deviation * deviation, 0), mask=columns < D)


@triton.jit
def store_partials(
    first,
    second,
    labels,
    valid,
    counts,
    moments,
    slot,
    classes,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
):
    """Partials of the float32 tile [rows, D] for every class.

    counts [slots, C] and moments [slots, C, 2, D] are float32.
    """
    for c in range(classes):
        member = valid & (labels == c)
        count = tl.sum(member.to(tl.float32), 0)
        entry = slot * classes + c
        tl.store(counts + entry, count)
        base = moments + entry.to(tl.int64) * (2 * D)
        _store_piece(first, member, count, base, 0, FIRST, D)
        if SECOND > 0:
            _store_piece(second, member, count, base, FIRST, SECOND, D)


@triton.jit
def _merge_piece(
    mean,
    squares,
    count,
    part_counts,
    part_count,
    bases,
    valid,
    OFFSET: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
):
    columns = OFFSET + tl.arange(0, COLUMNS)
    pointers = bases[:, None] + columns[None, :]
    mask = valid[:, None] & (columns < D)[None, :]
    part_means = tl.load(pointers, mask=mask, other=0.0)
    part_squares = tl.load(pointers + D, mask=mask, other=0.0)
    part_mean = tl.sum(part_counts[:, None] * part_means, 0) / tl.maximum(part_count, 1.0)
    deviation = part_means - part_mean[None, :]
    part_square = tl.sum(part_squares + part_counts[:, None] * deviation * deviation, 0)
    total = tl.maximum(count + part_count, 1.0)
    step = part_mean - mean
    squares += part_square + step * step * (count * part_count / total)
    return mean + step * (part_count / total), squares


@triton.jit
def _store_merged(
    mean, squares, count, means, variances, entry, OFFSET: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr
):
    columns = OFFSET + tl.arange(0, COLUMNS)
    base = entry.to(tl.int64) * D
    tl.store(means + base + columns, mean, mask=columns < D)
    tl.store(variances + base + columns, squares / tl.maximum(count - 1.0, 1.0), mask=columns < D)


@triton.jit
def merge_partials(
    counts,
    moments,
    first_slot,
    tiles,
    count_out,
    mean_out,
    variance_out,
    image_head,
    heads,
    classes,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    TILES: tl.constexpr,
):
    """Merge ``tiles`` partials from ``first_slot`` on into count [B, C], mean and variance [B, H, C, D]."""
    for c in range(classes):
        count = 0.0
        mean = tl.zeros([FIRST], tl.float32)
        squares = tl.zeros([FIRST], tl.float32)
        if SECOND > 0:
            second_mean = tl.zeros([SECOND], tl.float32)
            second_squares = tl.zeros([SECOND], tl.float32)
        for start in range(0, tiles, TILES):
            tile = start + tl.arange(0, TILES)
            valid = tile < tiles
            entries = (first_slot + tile) * classes + c
            part_counts = tl.load(counts + entries, mask=valid, other=0.0)
            part_count = tl.sum(part_counts, 0)
            bases = moments + entries.to(tl.int64) * (2 * D)
            mean, squares = _merge_piece(mean, squares, count, part_counts, part_count, bases, valid, 0, FIRST, D)
            if SECOND > 0:
                second_mean, second_squares = _merge_piece(
                    second_mean, second_squares, count, part_counts, part_count, bases, valid, FIRST, SECOND, D
                )
            count += part_count
        entry = image_head * classes + c
        _store_merged(mean, squares, count, mean_out, variance_out, entry, 0, FIRST, D)
        if SECOND > 0:
            _store_merged(second_mean, second_squares, count, mean_out, variance_out, entry, FIRST, SECOND, D)
        if image_head % heads == 0:
            tl.store(count_out + (image_head // heads) * classes + c, tl.cast(count, tl.int64))


def empty_statistics(batch: int, heads: int, classes: int, width: int, device: torch.device) -> ClassStatistics:
    """Memory for the statistics of a float16, bfloat16 or float32 tensor, every element of which is written."""
    mean = torch.empty(batch, heads, classes, width, dtype=torch.float32, device=device)
    return ClassStatistics(torch.empty(batch, classes, dtype=torch.int64, device=device), mean, torch.empty_like(mean))


def scratch(image_heads: int, tiles: int, classes: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    """counts [image_heads, T, C] and moments [image_heads, T, C, 2, D], not set; tickets [image_heads], zero."""
    return (
        torch.empty(image_heads, tiles, classes, dtype=torch.float32, device=device),
        torch.empty(image_heads, tiles, classes, 2, width, dtype=torch.float32, device=device),
        torch.zeros(image_heads, dtype=torch.int32, device=device),
    )
