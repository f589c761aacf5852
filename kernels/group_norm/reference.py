"""The specification: group normalisation written as its formula.

Float32 or float64, rounded once, at the end. Arguments are checked by the public function.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.precision import widened


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, layout: torch.memory_format
) -> Tensor:
    """x [B, C, H, W] -> [B, C, H, W] in ``layout``."""
    grouped = widened(x).contiguous().view(x.shape[0], groups, -1, *x.shape[2:])  # [B, G, C/G, H, W]
    mean = grouped.mean((2, 3, 4), keepdim=True)
    variance = (grouped - mean).square().mean((2, 3, 4), keepdim=True)
    normal = ((grouped - mean) / (variance + eps).sqrt()).flatten(1, 2)  # [B, C, H, W]
    out = normal * widened(weight)[:, None, None] + widened(bias)[:, None, None]
    if silu:
        out = out * out.sigmoid()
    return out.to(x.dtype).contiguous(memory_format=layout)
