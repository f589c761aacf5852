"""The specification: attention and its statistics written as their formulas, in float32 or float64, on any device.

Nothing here is fast or frugal: it holds the whole [B, H, Nq, Nk] map. Half types are computed in float32 and rounded
once, at the end. Arguments are checked by the public function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.precision import widened
from kernels.results import ClassStatistics


def contrasted(p: Tensor, contrast: float) -> Tensor:
    """Probabilities p [..., Nk] moved away from 1/Nk by the factor ``contrast`` and clipped to [0, 1]."""
    if contrast == 1:
        return p
    # Both means are the same number, so a probability equal to it stays as it is at every contrast.
    mean = p.new_full((), 1 / p.shape[-1])
    return (contrast * (p - mean) + mean).clamp(0, 1)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    # Scaled before the product: a large score would be rounded once more after it.
    return widened(q) / math.sqrt(q.shape[-1]) @ widened(k).transpose(-1, -2)  # [B, H, Nq, Nk]


def _layout(out: Tensor, dtype: torch.dtype) -> Tensor:
    """out [B, H, Nq, D] in memory order [B, Nq, H, D], as the projection after attention reads it."""
    return out.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """q [B, H, Nq, D], k and v [B, H, Nk, D] -> [B, H, Nq, D]."""
    p = contrasted(_scores(q, k).softmax(-1), contrast)
    return _layout(p @ widened(v), q.dtype)


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
        image = widened(q[b])  # [H, Nq, D]
        # Each class on its own keys alone: 0 times an infinite key that it does not see would be NaN.
        for c in range(-1, num_classes):
            query_index = (~known if c < 0 else query_labels[b] == c).nonzero()[:, 0]
            key_index = (key_labels[b] == c).nonzero()[:, 0]
            if c < 0 or len(key_index) == 0:
                key_index = torch.arange(k.shape[2], device=k.device)
            scores = _scores(q[b][:, query_index], k[b][:, key_index])  # [H, queries, keys] of the class
            p = contrasted(scores.softmax(-1), contrast)
            image = image.index_copy(1, query_index, p @ widened(v[b][:, key_index]))
        images.append(image)
    return _layout(torch.stack(images), q.dtype)


def class_statistics(x: Tensor, labels: Tensor, num_classes: int) -> ClassStatistics:
    """x [B, H, N, D] and labels [B, N] -> count [B, C], mean and unbiased variance [B, H, C, D]."""
    wide = widened(x)
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
