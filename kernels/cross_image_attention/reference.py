"""The specification: each operation written as its formula, in float32 or float64, on any device.

Nothing here is fast or frugal: attention holds its whole [B, H, Nq, Nk] map. Half types are computed in
float32 and rounded once, at the end. Arguments are checked by the public functions of ``kernels``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.results import AttentionResult, ClassStatistics


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def contrasted(p: Tensor, contrast: float) -> Tensor:
    """Probabilities p [..., Nk] moved away from 1/Nk by the factor ``contrast`` and clipped to [0, 1]."""
    if contrast == 1:
        return p
    # Both means are the same number, so a probability equal to it stays as it is at every contrast.
    mean = p.new_full((), 1 / p.shape[-1])
    return (contrast * (p - mean) + mean).clamp(0, 1)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    # Scaled before the product: a large score would be rounded once more after it.
    return _wide(q) / math.sqrt(q.shape[-1]) @ _wide(k).transpose(-1, -2)  # [B, H, Nq, Nk]


def _layout(out: Tensor, dtype: torch.dtype) -> Tensor:
    """out [B, H, Nq, D] in memory order [B, Nq, H, D], as the projection after attention reads it."""
    return out.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """q [B, H, Nq, D], k and v [B, H, Nk, D] -> [B, H, Nq, D]."""
    p = contrasted(_scores(q, k).softmax(-1), contrast)
    return _layout(p @ _wide(v), q.dtype)


def labelled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    contrast: float,
    query_labels: Tensor,
    key_labels: Tensor,
    num_classes: int,
    within_class: bool,
) -> Tensor:
    """As ``attention``, with classes kept apart where ``within_class``. Labels [B, Nq] and [B, Nk]."""
    if not within_class:
        return attention(q, k, v, contrast)
    images = []
    for b in range(q.shape[0]):
        known = (query_labels[b] >= 0) & (query_labels[b] < num_classes)  # [Nq]
        image = _wide(q[b])  # [H, Nq, D]
        # Each class on its own keys alone: 0 times an infinite key that it does not see would be NaN.
        for c in range(-1, num_classes):
            rows = (~known if c < 0 else query_labels[b] == c).nonzero()[:, 0]
            seen = (key_labels[b] == c).nonzero()[:, 0]
            if c < 0 or len(seen) == 0:
                seen = torch.arange(k.shape[2], device=k.device)
            p = contrasted(_scores(q[b][:, rows], k[b][:, seen]).softmax(-1), contrast)  # [H, rows, seen]
            image = image.index_copy(1, rows, p @ _wide(v[b][:, seen]))
        images.append(image)
    return _layout(torch.stack(images), q.dtype)


def class_statistics(x: Tensor, labels: Tensor, num_classes: int) -> ClassStatistics:
    """x [B, H, N, D] and labels [B, N] -> count [B, C], mean and unbiased variance [B, H, C, D]."""
    wide = _wide(x)
    counts, means, variances = [], [], []
    for c in range(num_classes):
        member = (labels == c)[:, None, :, None]  # [B, 1, N, 1]
        count = member.sum(2, keepdim=True)  # [B, 1, 1, 1]
        mean = torch.where(member, wide, 0).sum(2, keepdim=True) / count.clamp(min=1)  # [B, H, 1, D]
        squares = torch.where(member, wide - mean, 0).square().sum(2, keepdim=True)
        counts.append(count[:, 0, :, 0])
        means.append(mean)
        variances.append(squares / (count - 1).clamp(min=1))
    return ClassStatistics(torch.cat(counts, 1), torch.cat(means, 2), torch.cat(variances, 2))


def masked_adain(
    z: Tensor, source: Tensor, z_labels: Tensor, source_labels: Tensor, classes: tuple[int, ...], eps: float
) -> Tensor:
    """z [B, C, h, w], source [B, C, h', w'], labels [B, h, w] and [B, h', w'] -> [B, C, h, w]."""
    result = _wide(z).clone()
    for b in range(z.shape[0]):
        for c in classes:
            here, there = z_labels[b] == c, source_labels[b] == c
            old, wanted = _wide(z[b])[:, here], _wide(source[b])[:, there]  # [C, positions]
            if min(old.shape[1], wanted.shape[1]) < 2:
                continue
            normal = (old - old.mean(1, keepdim=True)) / (old.var(1, keepdim=True) + eps).sqrt()
            result[b][:, here] = normal * (wanted.var(1, keepdim=True) + eps).sqrt() + wanted.mean(1, keepdim=True)
    return result.to(z.dtype)


def adain_features(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """result.out [B, H, Nq, D] and labels [B, Nq] -> [B, H, Nq, D]."""
    out = _wide(result.out)
    adapted = out
    for c in range(result.query.count.shape[1]):
        enough = (result.query.count[:, c] >= 2) & (result.key.count[:, c] >= 2)  # [B]
        member = (query_labels == c) & enough[:, None]  # [B, Nq]
        normal = (out - result.query.mean[:, :, c, None]) / (result.query.variance[:, :, c, None] + eps).sqrt()
        moved = normal * (result.key.variance[:, :, c, None] + eps).sqrt() + result.key.mean[:, :, c, None]
        adapted = torch.where(member[:, None, :, None], moved, adapted)
    return _layout(adapted, result.out.dtype)


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, layout: torch.memory_format
) -> Tensor:
    """x [B, C, H, W] -> [B, C, H, W] in ``layout``."""
    grouped = _wide(x).contiguous().view(x.shape[0], groups, -1, *x.shape[2:])  # [B, G, C/G, H, W]
    mean = grouped.mean((2, 3, 4), keepdim=True)
    variance = (grouped - mean).square().mean((2, 3, 4), keepdim=True)
    normal = ((grouped - mean) / (variance + eps).sqrt()).flatten(1, 2)  # [B, C, H, W]
    out = normal * _wide(weight)[:, None, None] + _wide(bias)[:, None, None]
    if silu:
        out = out * out.sigmoid()
    return out.to(x.dtype).contiguous(memory_format=layout)


def geglu(projected: Tensor) -> Tensor:
    """projected [..., 2·C] -> [..., C]."""
    value, gate = _wide(projected).chunk(2, -1)  # [..., C] each
    return (value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2).to(projected.dtype)
