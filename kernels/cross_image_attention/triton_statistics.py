"""Counts, means and centred second moments of each class, in two launches.

Every `GROUP` of positions leaves one partial (count, mean, sum of squared deviations M2) per class in scratch memory: a
warp's own rows, so that no warp waits for another. A second, small launch merges an image's and head's in their order
(Chan, Golub and LeVeque's formula), so the result does not depend on the order in which programs ran, and no
floating-point atomic is needed.

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

GROUP = 16  # rows of one partial: those that one warp holds of a product of tensor cores
MERGE_WARPS = 8
_MERGED_VALUES = 8192  # of partials, at once


@triton.jit
def _store_partial_piece(
    x,  # [BLOCK, WIDTH], float32
    member,  # [BLOCK], int1
    counts,  # [BLOCK // GROUP], float32
    moments_ptrs,  # [BLOCK // GROUP], pointers to partials [2, HEAD_DIM], float32, written
    stored,  # [BLOCK // GROUP], which groups exist
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
):
    offs_d = OFFSET + tl.arange(0, WIDTH)
    groups: tl.constexpr = x.shape[0] // GROUP
    x = tl.reshape(tl.where(member[:, None], x, 0.0), [groups, GROUP, WIDTH])
    member = tl.reshape(tl.broadcast_to(member[:, None], [groups * GROUP, WIDTH]), [groups, GROUP, WIDTH])
    mean = tl.sum(x, 1) / tl.maximum(counts, 1.0)[:, None]
    deviation = tl.where(member, x - mean[:, None, :], 0.0)
    ptrs = moments_ptrs[:, None] + offs_d[None, :]
    mask = stored[:, None] & (offs_d < HEAD_DIM)[None, :]
    tl.store(ptrs, mean, mask=mask)
    tl.store(ptrs + HEAD_DIM, tl.sum(deviation * deviation, 1), mask=mask)


@triton.jit
def store_partials(
    x_0,  # [BLOCK, HEAD_DIM_0], float32
    x_1,  # [BLOCK, HEAD_DIM_1], float32
    labels,  # [BLOCK]
    mask,  # [BLOCK], which positions exist
    partial_counts_ptr,  # [B·H·S, C], float32
    partial_moments_ptr,  # [B·H·S, C, 2, HEAD_DIM], float32: mean and M2
    first_slot,  # of B·H·S, the tile's
    end_slot,  # what lies from here on belongs to others
    num_classes,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_0: tl.constexpr,
    HEAD_DIM_1: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write the partials of every class, one for each GROUP of a tile's rows."""
    groups: tl.constexpr = x_0.shape[0] // GROUP
    slots = first_slot + tl.arange(0, groups)
    stored = slots < end_slot
    for c in range(num_classes):
        member = mask & (labels == c)
        counts = tl.sum(tl.reshape(member.to(tl.float32), [groups, GROUP]), 1)
        entries = slots * num_classes + c
        tl.store(partial_counts_ptr + entries, counts, mask=stored)
        ptrs = partial_moments_ptr + entries.to(tl.int64) * (2 * HEAD_DIM)
        _store_partial_piece(x_0, member, counts, ptrs, stored, 0, HEAD_DIM_0, HEAD_DIM, GROUP)
        if HEAD_DIM_1 > 0:
            _store_partial_piece(x_1, member, counts, ptrs, stored, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM, GROUP)


@triton.jit(do_not_specialize=["H", "query_slots", "key_slots", "num_classes"])
def merge_kernel(
    partial_counts_ptr,  # [B·H, S, C], float32
    partial_moments_ptr,  # [B·H, S, C, 2, HEAD_DIM], float32
    query_count_ptr,  # [B, C], int64, written
    query_mean_ptr,  # [B, H, C, HEAD_DIM], float32, written
    query_variance_ptr,  # [B, H, C, HEAD_DIM], float32, written
    key_count_ptr,  # [B, C], int64, written
    key_mean_ptr,  # [B, H, C, HEAD_DIM], float32, written
    key_variance_ptr,  # [B, H, C, HEAD_DIM], float32, written
    H,
    query_slots,
    key_slots,
    num_classes,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MERGED: tl.constexpr,
):
    """Merge the partials of one image and head, one class and one side into counts, means and unbiased variances."""
    off_hz = tl.program_id(1)
    c = tl.program_id(0) % num_classes
    of_keys = tl.program_id(0) // num_classes  # 0 queries, 1 keys
    first_slot = off_hz * (query_slots + key_slots) + of_keys * query_slots
    slots = tl.where(of_keys == 1, key_slots, query_slots)
    offs_d = tl.arange(0, BLOCK_D)
    count = 0.0
    mean = tl.zeros([BLOCK_D], tl.float32)
    m2 = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, slots, MERGED):
        offs_s = start + tl.arange(0, MERGED)
        mask_s = offs_s < slots
        entries = (first_slot + offs_s) * num_classes + c
        part_counts = tl.load(partial_counts_ptr + entries, mask=mask_s, other=0.0)
        part_count = tl.sum(part_counts, 0)
        ptrs = partial_moments_ptr + entries.to(tl.int64)[:, None] * (2 * HEAD_DIM) + offs_d[None, :]
        mask = mask_s[:, None] & (offs_d < HEAD_DIM)[None, :]
        part_means = tl.load(ptrs, mask=mask, other=0.0)
        part_m2s = tl.load(ptrs + HEAD_DIM, mask=mask, other=0.0)
        part_mean = tl.sum(part_counts[:, None] * part_means, 0) / tl.maximum(part_count, 1.0)
        deviation = part_means - part_mean[None, :]
        part_m2 = tl.sum(part_m2s + part_counts[:, None] * deviation * deviation, 0)
        total = tl.maximum(count + part_count, 1.0)
        delta = part_mean - mean
        m2 += part_m2 + delta * delta * (count * part_count / total)
        mean += delta * (part_count / total)
        count += part_count
    variance = m2 / tl.maximum(count - 1.0, 1.0)
    base = (off_hz * num_classes + c).to(tl.int64) * HEAD_DIM
    mask_d = offs_d < HEAD_DIM
    entry = (off_hz // H) * num_classes + c
    first_head = off_hz % H == 0
    if of_keys == 0:
        tl.store(query_mean_ptr + base + offs_d, mean, mask=mask_d)
        tl.store(query_variance_ptr + base + offs_d, variance, mask=mask_d)
        if first_head:
            tl.store(query_count_ptr + entry, tl.cast(count, tl.int64))
    else:
        tl.store(key_mean_ptr + base + offs_d, mean, mask=mask_d)
        tl.store(key_variance_ptr + base + offs_d, variance, mask=mask_d)
        if first_head:
            tl.store(key_count_ptr + entry, tl.cast(count, tl.int64))


def merging(head_dim: int) -> dict[str, int]:
    """How `merge_kernel` is built for a head width."""
    block_d = triton.next_power_of_2(head_dim)
    return {"HEAD_DIM": head_dim, "BLOCK_D": block_d, "MERGED": _MERGED_VALUES // block_d}


def empty_statistics(batch: int, heads: int, num_classes: int, head_dim: int, device: torch.device) -> ClassStatistics:
    """Memory for the statistics of a float16, bfloat16 or float32 tensor, every element of which is written."""
    mean = torch.empty(batch, heads, num_classes, head_dim, dtype=torch.float32, device=device)
    count = torch.empty(batch, num_classes, dtype=torch.int64, device=device)
    return ClassStatistics(count, mean, torch.empty_like(mean))


def empty_partials(
    image_heads: int, slots: int, num_classes: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Partial counts [B·H, S, C] and moments [B·H, S, C, 2, D], not set."""
    return (
        torch.empty(image_heads, slots, num_classes, dtype=torch.float32, device=device),
        torch.empty(image_heads, slots, num_classes, 2, head_dim, dtype=torch.float32, device=device),
    )
