"""Launching the kernels of `triton_kernels`: group normalisation with SiLU in one launch or two.

B batch, C channels, G groups, H and W height and width of the grid.
"""

from __future__ import annotations

from math import gcd

import torch
import triton
from torch import Tensor

from kernels.group_norm.tiles import GroupTiles, choose_group_tiles, power_of_two
from kernels.group_norm.triton_kernels import group_moments_kernel, group_norm_kernel, group_output_kernel
from kernels.strides import folded_stride
from kernels.triton_tile_ops import device_of, emulates_bf16


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of images, positions and channels of [B, C, H, W]."""
    row = folded_stride(x, 2, 4)
    assert row is not None
    return x.stride(0), row, x.stride(1)


def _tiles_for(x: Tensor, groups: int) -> GroupTiles:
    batch, channels, height, width = x.shape
    _, row, column = _strides(x)
    multiprocessors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    return choose_group_tiles(
        batch,
        groups,
        channels // groups,
        height * width,
        x.element_size(),
        channels_last=column < row,
        multiprocessors=multiprocessors,
    )


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    layout: torch.memory_format,
    *,
    tiles: GroupTiles | None = None,
) -> Tensor:
    """x [B, C, H, W] -> [B, C, H, W] in ``layout``, in one launch or two; ``tiles`` instead of those by shape."""
    if tiles is None:
        tiles = _tiles_for(x, groups)
    batch, channels = x.shape[:2]
    width, positions = channels // groups, x.shape[2] * x.shape[3]
    g_tiles, chunks = triton.cdiv(groups, tiles.groups), triton.cdiv(positions, tiles.chunk)
    out = torch.empty_like(x, memory_format=layout)
    weight, bias = weight.contiguous(), bias.contiguous()
    tensors = (x, out, weight, bias)
    constants = {
        "PROGRAM_GROUPS": tiles.groups,
        "GROUP_CHANNELS": width,
        "BLOCK_G": power_of_two(tiles.groups),
        "BLOCK_C": tiles.block_c,
        "BLOCK_P": tiles.block_p,
        "ALIGN": gcd(16, tiles.groups * width, channels),
        "num_warps": tiles.num_warps,
        "maxnreg": tiles.maxnreg,
        "enable_fp_fusion": True,
    }
    written = {"SILU": silu, "EMULATE_BF16": emulates_bf16(x.dtype)}
    with device_of(x):
        if chunks == 1:
            one_tile = tiles.block_p >= positions and tiles.block_c >= tiles.groups * width
            group_norm_kernel[(batch * g_tiles,)](
                *tensors,
                *_strides(x),
                *_strides(out),
                groups,
                g_tiles,
                positions,
                float(eps),
                ONE_TILE=one_tile,
                **constants,
                **written,
            )
            return out
        partials = torch.empty(batch, groups, 2, chunks, dtype=torch.float32, device=x.device)
        grid = (batch * chunks * g_tiles,)
        group_moments_kernel[grid](
            x, partials, *_strides(x), groups, g_tiles, chunks, positions, tiles.chunk, **constants
        )
        group_output_kernel[grid](
            *tensors,
            partials,
            *_strides(x),
            *_strides(out),
            groups,
            g_tiles,
            chunks,
            positions,
            tiles.chunk,
            float(eps),
            BLOCK_CHUNKS=power_of_two(chunks),
            **constants,
            **written,
        )
    return out
