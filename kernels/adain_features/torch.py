"""``impl="torch"``: AdaIN of attention features on the positions of each class alone."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.cross_image_attention import torch_masked
from kernels.results import AttentionResult


@torch.no_grad()
def adain_features(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """result.out [B, H, Nq, D] and labels [B, Nq] -> [B, H, Nq, D]."""
    if torch_masked.is_wanted(result.out):
        return by_masks(result, query_labels, eps)
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


@torch.no_grad()
def by_masks(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """The same for GPUs, where the number of a class's positions would have to be read back."""
    scale = ((result.key.variance + eps) / (result.query.variance + eps)).sqrt_()  # [B, H, C, D]
    enough = (result.query.count >= 2) & (result.key.count >= 2)  # [B, C]
    out = result.out.to(scale.dtype)
    adapted = result.out.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    for c in range(scale.shape[2]):
        moved = (out - result.query.mean[:, :, c, None]) * scale[:, :, c, None] + result.key.mean[:, :, c, None]
        member = (query_labels == c) & enough[:, c, None]  # [B, Nq]
        adapted = torch.where(member[:, None, :, None], moved.to(adapted.dtype), adapted)
    return adapted
