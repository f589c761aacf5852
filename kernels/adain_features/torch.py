"""``impl="torch"``: AdaIN of attention features on the positions of each class alone."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.adain_features import reference
from kernels.cross_image_attention import torch_masked
from kernels.results import AttentionResult


@torch.no_grad()
def adain_features(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """result.out [B, H, Nq, D] and labels [B, Nq] -> [B, H, Nq, D]."""
    if torch_masked.is_wanted(result.out):
        return reference.adain_features(result, query_labels, eps)  # by masks, with nothing to wait for
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
