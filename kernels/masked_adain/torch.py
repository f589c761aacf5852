"""``impl="torch"``: AdaIN of latents by masks, of attention features on the positions of each class alone."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.cross_image_attention.torch_statistics import accumulator
from kernels.results import AttentionResult


@torch.no_grad()
def masked_adain(
    z: Tensor, source: Tensor, z_labels: Tensor, source_labels: Tensor, classes: tuple[int, ...], eps: float
) -> Tensor:
    """z [B, C, h, w], source [B, C, h', w'], labels [B, h, w] and [B, h', w'] -> [B, C, h, w].

    Masks instead of indices: latents are small, and the size of an index would have to be read back from a GPU.
    """
    dtype = accumulator(z.dtype)
    old, origin = z.flatten(2).to(dtype), source.flatten(2).to(dtype)  # [B, C, positions]
    result = z.flatten(2)
    for c in classes:
        here, there = ((labels == c).flatten(1)[:, None] for labels in (z_labels, source_labels))  # [B, 1, positions]
        count, mean, variance = _moments(old, here)
        wanted_count, wanted_mean, wanted_variance = _moments(origin, there)
        scale = ((wanted_variance + eps) / (variance + eps)).sqrt_()  # [B, C, 1]
        moved = (old - mean).mul_(scale).add_(wanted_mean).to(z.dtype)
        enough = (count >= 2) & (wanted_count >= 2)  # [B, 1, 1]
        result = torch.where(here & enough, moved, result)
    return result.reshape(z.shape).clone(memory_format=torch.contiguous_format)


def _moments(x: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count [B, 1, 1], mean and unbiased variance [B, C, 1] of x [B, C, N] over the positions ``member`` [B, 1, N]."""
    count = member.sum(2, keepdim=True)
    mean = torch.where(member, x, 0).sum(2, keepdim=True) / count.clamp(min=1)
    squares = torch.where(member, x - mean, 0).square_().sum(2, keepdim=True)
    return count, mean, squares / (count - 1).clamp(min=1)


@torch.no_grad()
def adain_features(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """result.out [B, H, Nq, D] and labels [B, Nq] -> [B, H, Nq, D]."""
    adapted = result.out.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    scale = ((result.key.variance + eps) / (result.query.variance + eps)).sqrt_()  # [B, H, C, D]
    for b in range(adapted.shape[0]):
        for c in range(scale.shape[2]):
            member = (query_labels[b] == c).nonzero()[:, 0]
            if min(len(member), int(result.key.count[b, c])) < 2:
                continue
            values = adapted[b][:, member].to(scale.dtype)  # [H, members, D]
            values.sub_(result.query.mean[b, :, None, c]).mul_(scale[b, :, None, c])
            adapted[b][:, member] = values.add_(result.key.mean[b, :, None, c]).to(adapted.dtype)
    return adapted
