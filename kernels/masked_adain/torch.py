"""``impl="torch"``: AdaIN of latents by masks."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.precision import accumulator


@torch.no_grad()
def masked_adain(
    z: Tensor, source: Tensor, z_labels: Tensor, source_labels: Tensor, classes: tuple[int, ...], eps: float
) -> Tensor:
    """z [B, C, h, w], source [B, C, h', w'], labels [B, h, w] and [B, h', w'] -> [B, C, h, w].

    Masks instead of indices: latents are small, and the size of an index would have to be read back from a GPU.
    """
    dtype = accumulator(z.dtype)
    x, y = z.flatten(2).to(dtype), source.flatten(2).to(dtype)  # [B, C, positions]
    result = z.flatten(2)
    for c in classes:
        # [B, 1, positions]
        z_member, source_member = ((labels == c).flatten(1)[:, None] for labels in (z_labels, source_labels))
        count, mean, variance = _moments(x, z_member)
        source_count, source_mean, source_variance = _moments(y, source_member)
        scale = ((source_variance + eps) / (variance + eps)).sqrt_()  # [B, C, 1]
        adapted = (x - mean).mul_(scale).add_(source_mean).to(z.dtype)
        enough = (count >= 2) & (source_count >= 2)  # [B, 1, 1]
        result = torch.where(z_member & enough, adapted, result)
    return result.reshape(z.shape).clone(memory_format=torch.contiguous_format)


def _moments(x: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count [B, 1, 1], mean and unbiased variance [B, C, 1] of x [B, C, N] over the positions ``member`` [B, 1, N]."""
    count = member.sum(2, keepdim=True)
    mean = torch.where(member, x, 0).sum(2, keepdim=True) / count.clamp(min=1)
    squares = torch.where(member, x - mean, 0).square_().sum(2, keepdim=True)
    return count, mean, squares / (count - 1).clamp(min=1)
