"""``impl="torch"``: AdaIN on the positions of each class alone."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.results import AttentionResult
from kernels.torch_statistics import accumulator


@torch.no_grad()
def masked_adain(
    z: Tensor, source: Tensor, z_labels: Tensor, source_labels: Tensor, classes: tuple[int, ...], eps: float
) -> Tensor:
    """z [B, C, h, w], source [B, C, h', w'], labels [B, h, w] and [B, h', w'] -> [B, C, h, w]."""
    dtype = accumulator(z.dtype)
    result = z.flatten(2).clone(memory_format=torch.contiguous_format)  # [B, C, h·w]
    for b in range(z.shape[0]):
        origin = source[b].flatten(1)  # [C, h'·w']
        for c in classes:
            here = (z_labels[b].flatten() == c).nonzero()[:, 0]
            there = (source_labels[b].flatten() == c).nonzero()[:, 0]
            if min(len(here), len(there)) < 2:
                continue
            values = result[b][:, here].to(dtype)  # [C, positions]
            variance, mean = torch.var_mean(values, 1, keepdim=True)
            wanted_variance, wanted_mean = torch.var_mean(origin[:, there].to(dtype), 1, keepdim=True)
            values.sub_(mean).mul_(((wanted_variance + eps) / (variance + eps)).sqrt_()).add_(wanted_mean)
            result[b].index_copy_(1, here, values.to(z.dtype))
    return result.view(z.shape)


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
