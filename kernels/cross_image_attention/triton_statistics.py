"""Counts, means and centred second moments of each class, merged across the programs of one image and head.

Every tile of positions leaves one partial (count, mean, sum of squared deviations M2) per class in scratch memory.
Programs of one image and head draw tickets; the one that draws the last merges all partials in the order of the
tiles (Chan, Golub and LeVeque's formula), so the result does not depend on the order in which programs ran, and
no floating-point atomic is needed.

B batch, H heads, C classes, S slots: partials of one image and head. Head widths that are not powers of two are held as
two pieces of HEAD_DIM_0 and HEAD_DIM_1 columns; where HEAD_DIM_1 is 0 the second piece is an unused copy of the first.
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

MERGED_PARTIALS = 32  # at once


@triton.jit
def _store_partial_piece(
    x,  # [BLOCK, WIDTH], float32
    member,  # [BLOCK], int1
    count,
    moments_ptr,  # of one slot and class: [2, HEAD_DIM], float32, written
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    offs_d = OFFSET + tl.arange(0, WIDTH)
    mean = tl.sum(tl.where(member[:, None], x, 0.0), 0) / tl.maximum(count, 1.0)
    deviation = tl.where(member[:, None], x - mean[None, :], 0.0)
    tl.store(moments_ptr + offs_d, mean, mask=offs_d < HEAD_DIM)
    tl.store(moments_ptr + HEAD_DIM + offs_d, tl.sum(deviation * deviation, 0), mask=offs_d < HEAD_DIM)


@triton.jit
def store_partials(
    x_0,  # [BLOCK, HEAD_DIM_0], float32
    x_1,  # [BLOCK, HEAD_DIM_1], float32
    labels,  # [BLOCK]
    mask,  # [BLOCK], which positions exist
    partial_counts_ptr,  # [B·H·S, C], float32
    partial_moments_ptr,  # [B·H·S, C, 2, HEAD_DIM], float32: mean and M2
    slot,  # of B·H·S
    num_classes,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_0: tl.constexpr,
    HEAD_DIM_1: tl.constexpr,
):
    """Write a tile's partials of every class."""
    for c in range(num_classes):
        member = mask & (labels == c)
        count = tl.sum(member.to(tl.float32), 0)
        entry = slot * num_classes + c
        tl.store(partial_counts_ptr + entry, count)
        moments_ptr = partial_moments_ptr + entry.to(tl.int64) * (2 * HEAD_DIM)
        _store_partial_piece(x_0, member, count, moments_ptr, 0, HEAD_DIM_0, HEAD_DIM)
        if HEAD_DIM_1 > 0:
            _store_partial_piece(x_1, member, count, moments_ptr, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM)


@triton.jit
def _merge_piece(
    mean,  # [WIDTH], of what is merged so far, like m2 and count
    m2,  # [WIDTH]
    count,
    part_counts,  # [MERGED], of the partials, and their sum
    part_count,
    moments_ptrs,  # [MERGED], pointers to partials [2, HEAD_DIM], float32
    mask,  # [MERGED], which partials exist
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    offs_d = OFFSET + tl.arange(0, WIDTH)
    ptrs = moments_ptrs[:, None] + offs_d[None, :]
    mask = mask[:, None] & (offs_d < HEAD_DIM)[None, :]
    part_means = tl.load(ptrs, mask=mask, other=0.0)
    part_m2s = tl.load(ptrs + HEAD_DIM, mask=mask, other=0.0)
    part_mean = tl.sum(part_counts[:, None] * part_means, 0) / tl.maximum(part_count, 1.0)
    deviation = part_means - part_mean[None, :]
    part_m2 = tl.sum(part_m2s + part_counts[:, None] * deviation * deviation, 0)
    total = tl.maximum(count + part_count, 1.0)
    delta = part_mean - mean
    m2 += part_m2 + delta * delta * (count * part_count / total)
    return mean + delta * (part_count / total), m2


@triton.jit
def _store_merged_piece(
    mean,  # [WIDTH], float32
    m2,  # [WIDTH], float32
    count,
    mean_ptr,  # [B·H·C, HEAD_DIM], float32, written
    variance_ptr,  # [B·H·C, HEAD_DIM], float32, written
    entry,  # of B·H·C
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    offs_d = OFFSET + tl.arange(0, WIDTH)
    base = entry.to(tl.int64) * HEAD_DIM
    tl.store(mean_ptr + base + offs_d, mean, mask=offs_d < HEAD_DIM)
    tl.store(variance_ptr + base + offs_d, m2 / tl.maximum(count - 1.0, 1.0), mask=offs_d < HEAD_DIM)


@triton.jit
def merge_partials(
    partial_counts_ptr,  # [B·H·S, C], float32
    partial_moments_ptr,  # [B·H·S, C, 2, HEAD_DIM], float32
    first_slot,
    slots,  # that are merged
    count_ptr,  # [B, C], int64, written by the image's first head
    mean_ptr,  # [B, H, C, HEAD_DIM], float32
    variance_ptr,  # [B, H, C, HEAD_DIM], float32
    off_hz,  # of B·H
    H,
    num_classes,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_0: tl.constexpr,
    HEAD_DIM_1: tl.constexpr,
    MERGED: tl.constexpr,
):
    """Merge the partials from ``first_slot`` on into counts, means and unbiased variances."""
    for c in range(num_classes):
        count = 0.0
        mean_0 = tl.zeros([HEAD_DIM_0], tl.float32)
        m2_0 = tl.zeros([HEAD_DIM_0], tl.float32)
        if HEAD_DIM_1 > 0:
            mean_1 = tl.zeros([HEAD_DIM_1], tl.float32)
            m2_1 = tl.zeros([HEAD_DIM_1], tl.float32)
        for start in range(0, slots, MERGED):
            offs_s = start + tl.arange(0, MERGED)
            mask = offs_s < slots
            entries = (first_slot + offs_s) * num_classes + c
            part_counts = tl.load(partial_counts_ptr + entries, mask=mask, other=0.0)
            part_count = tl.sum(part_counts, 0)
            ptrs = partial_moments_ptr + entries.to(tl.int64) * (2 * HEAD_DIM)
            mean_0, m2_0 = _merge_piece(
                mean_0, m2_0, count, part_counts, part_count, ptrs, mask, 0, HEAD_DIM_0, HEAD_DIM
            )
            if HEAD_DIM_1 > 0:
                mean_1, m2_1 = _merge_piece(
                    mean_1, m2_1, count, part_counts, part_count, ptrs, mask, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM
                )
            count += part_count
        entry = off_hz * num_classes + c
        _store_merged_piece(mean_0, m2_0, count, mean_ptr, variance_ptr, entry, 0, HEAD_DIM_0, HEAD_DIM)
        if HEAD_DIM_1 > 0:
            _store_merged_piece(mean_1, m2_1, count, mean_ptr, variance_ptr, entry, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM)
        if off_hz % H == 0:
            tl.store(count_ptr + (off_hz // H) * num_classes + c, tl.cast(count, tl.int64))


def empty_statistics(batch: int, heads: int, num_classes: int, head_dim: int, device: torch.device) -> ClassStatistics:
    """Memory for the statistics of a float16, bfloat16 or float32 tensor, every element of which is written."""
    mean = torch.empty(batch, heads, num_classes, head_dim, dtype=torch.float32, device=device)
    count = torch.empty(batch, num_classes, dtype=torch.int64, device=device)
    return ClassStatistics(count, mean, torch.empty_like(mean))


def empty_partials(
    image_heads: int, slots: int, num_classes: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Partial counts [B·H, S, C] and moments [B·H, S, C, 2, D], not set, and tickets [B·H], which are zero."""
    return (
        torch.empty(image_heads, slots, num_classes, dtype=torch.float32, device=device),
        torch.empty(image_heads, slots, num_classes, 2, head_dim, dtype=torch.float32, device=device),
        torch.zeros(image_heads, dtype=torch.int32, device=device),
    )
