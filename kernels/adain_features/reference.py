"""The specification: AdaIN of attention features written as its formula.

Float32 or float64, rounded once, at the end. Arguments are checked by the public function.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.precision import widened
from kernels.results import AttentionResult


def adain_features(result: AttentionResult, query_labels: Tensor, eps: float) -> Tensor:
    """result.out [B, H, Nq, D] and labels [B, Nq] -> [B, H, Nq, D]."""
    out = widened(result.out)
    adapted = out
    for c in range(result.query.count.shape[1]):
        enough = (result.query.count[:, c] >= 2) & (result.key.count[:, c] >= 2)  # [B]
        member = (query_labels == c) & enough[:, None]  # [B, Nq]
        normal = (out - result.query.mean[:, :, c, None]) / (result.query.variance[:, :, c, None] + eps).sqrt()
        moved = normal * (result.key.variance[:, :, c, None] + eps).sqrt() + result.key.mean[:, :, c, None]
        adapted = torch.where(member[:, None, :, None], moved, adapted)
    return adapted.to(result.out.dtype).transpose(1, 2).contiguous().transpose(1, 2)
