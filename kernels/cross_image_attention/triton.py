"""Launching the fused attention kernel of `triton_kernel`.

B batch, H heads, Nq queries, Nk keys, D head width, C classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.cross_image_attention.tiles import SKIPPING, Tiles, choose_tiles
from kernels.cross_image_attention.torch_masked import zero_nonfinite
from kernels.cross_image_attention.triton_kernel import COMPARED_TILES, COUNTED_LABELS, LEAST_SKIPPING, attention_kernel
from kernels.cross_image_attention.triton_statistics import (
    GROUP,
    MERGE_WARPS,
    empty_partials,
    empty_statistics,
    merge_kernel,
    merging,
)
from kernels.head_widths import split_width
from kernels.results import AttentionResult
from kernels.strides import alignment
from kernels.triton_tile_ops import device_of, emulates_bf16


class Launch(NamedTuple):
    """What one launch gave: the result, and how many of how many second-pass tiles were visited."""

    result: Tensor | AttentionResult
    visited: Tensor | None  # [B·H·M_TILES], int32; None where nothing may be skipped
    tiles: int  # tiles of keys that each program could visit


def attention(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """q [B, H, Nq, D], k and v [B, H, Nk, D] -> [B, H, Nq, D]."""
    result = launch(q, k, v, contrast).result
    assert isinstance(result, Tensor)
    return result


def labelled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    contrast: float,
    query_labels: Tensor,
    key_labels: Tensor,
    num_classes: int,
    within_class: bool,
) -> AttentionResult:
    """As ``attention``, with statistics, and with classes kept apart where ``within_class``. Labels [B, N]."""
    result = launch(q, k, v, contrast, (query_labels, key_labels), num_classes, within_class=within_class).result
    assert isinstance(result, AttentionResult)
    return result


def _tiles_for(q: Tensor, *, burdened: bool) -> Tiles:
    batch, heads, queries, width = q.shape
    architecture, multiprocessors = 80, 1  # the interpreter's
    if q.is_cuda:
        major, minor = torch.cuda.get_device_capability(q.device)
        architecture = 10 * major + minor
        multiprocessors = torch.cuda.get_device_properties(q.device).multi_processor_count
    sizes = (width, q.element_size(), architecture, multiprocessors, batch * heads, queries)
    return choose_tiles(*sizes, burdened=burdened)


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    contrast: float,
    labels: tuple[Tensor, Tensor] | None = None,
    num_classes: int = 0,
    *,
    within_class: bool = False,
    skip: bool = SKIPPING,
    tiles: Tiles | None = None,
) -> Launch:
    """One launch of the kernel; arguments as `api` checks them.

    Args:
        q: [B, H, Nq, D].
        k: [B, H, Nk, D].
        v: [B, H, Nk, D].
        contrast: β.
        labels: query labels [B, Nq] and key labels [B, Nk], for statistics.
        num_classes: C, with labels.
        within_class: keep classes apart.
        skip: leave out tiles that contribute exactly 0; the result is the same bit for bit.
        tiles: instead of those that `choose_tiles` gives.
    """
    batch, heads, queries, head_dim = q.shape
    keys = k.shape[2]
    skip = skip and contrast > LEAST_SKIPPING and keys > 1
    if tiles is None:
        tiles = _tiles_for(q, burdened=skip or within_class)
    qk_scale = math.log2(math.e) / math.sqrt(head_dim)
    if keys == 1:
        # Its probability is 1 at every contrast: exactly, where the rounding of its score is too small to show in the
        # exponential. (By 0 itself the -inf of keys that do not exist would be NaN.)
        contrast, qk_scale = 1.0, 2.0**-100
    m_tiles, n_tiles = triton.cdiv(queries, tiles.block_m), triton.cdiv(keys, tiles.block_n)
    programs = batch * heads * m_tiles
    out = q.new_empty(batch, queries, heads, head_dim).transpose(1, 2)
    tile_max = tile_lists = visited = None
    if skip:
        tile_max = torch.empty(programs, n_tiles, tiles.block_m, dtype=torch.bfloat16, device=q.device)
        tile_lists = torch.empty(programs, n_tiles, dtype=torch.int32, device=q.device)
        visited = torch.empty(programs, dtype=torch.int32, device=q.device)
    query_labels = key_labels = nonfinite = None
    partials: tuple[Tensor | None, ...] = (None, None)
    query_slots, key_slots = triton.cdiv(queries, GROUP), triton.cdiv(keys, GROUP)
    result: Tensor | AttentionResult = out
    if labels is not None:
        query_labels, key_labels = labels
        partials = empty_partials(batch * heads, query_slots + key_slots, num_classes, head_dim, q.device)
        query_statistics = empty_statistics(batch, heads, num_classes, head_dim, q.device)
        key_statistics = empty_statistics(batch, heads, num_classes, head_dim, q.device)
        result = AttentionResult(out, query_statistics, key_statistics)
        if within_class:
            v, nonfinite = zero_nonfinite(v, key_labels, num_classes)
    first_n = tiles.first_keys(contrast=contrast != 1)
    even = keys % tiles.block_n == 0 and keys % first_n == 0
    head_dim_0, head_dim_1 = split_width(head_dim)
    with device_of(q):
        attention_kernel[(m_tiles, batch * heads)](
            q,
            k,
            v,
            out,
            query_labels,
            key_labels,
            tile_max,
            tile_lists,
            visited,
            nonfinite,
            *partials,
            *q.stride(),
            *k.stride(),
            *v.stride(),
            *out.stride(),
            *((0, 0) if query_labels is None else query_labels.stride()),
            *((0, 0) if key_labels is None else key_labels.stride()),
            heads,
            queries,
            keys,
            num_classes,
            qk_scale,
            float(contrast),
            HEAD_DIM=head_dim,
            HEAD_DIM_0=head_dim_0,
            HEAD_DIM_1=head_dim_1,
            BLOCK_M=tiles.block_m,
            BLOCK_N=tiles.block_n,
            EVEN_N=keys % tiles.block_n == 0,
            FIRST_N=first_n,
            EVEN_FIRST_N=keys % first_n == 0,
            CONTRAST=contrast != 1,
            SKIP=tile_max is not None,
            STATISTICS=labels is not None,
            WITHIN_CLASS=within_class,
            ALIGN=alignment(q, k, v),
            ALIGN_OUT=alignment(out),
            INPUT_PRECISION="ieee",
            EMULATE_BF16=emulates_bf16(q.dtype),
            COMPARED=COMPARED_TILES,
            COUNTED=COUNTED_LABELS,
            GROUP=GROUP,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
            maxnreg=tiles.registers(contrast=contrast != 1, even=even),
            enable_fp_fusion=True,
        )
        if labels is not None:
            merge_kernel[(2 * num_classes, batch * heads)](
                *partials,
                *vars(query_statistics).values(),
                *vars(key_statistics).values(),
                heads,
                query_slots,
                key_slots,
                num_classes,
                **merging(head_dim),
                num_warps=MERGE_WARPS,
                enable_fp_fusion=True,
            )
    if nonfinite is not None:
        of_class = nonfinite[:, :, :num_classes]
        key_statistics.mean.add_(of_class)
        key_statistics.variance.add_(of_class - of_class)
    return Launch(result, visited, n_tiles)
