"""``impl="torch"``: statistics of each class from that class's positions alone."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.results import ClassStatistics


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over tensors of ``dtype`` are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.no_grad()
def class_statistics(x: Tensor, labels: Tensor, num_classes: int) -> ClassStatistics:
    """x [B, H, N, D] and labels [B, N] -> count [B, C], mean and unbiased variance [B, H, C, D]."""
    batch, heads, _, width = x.shape
    dtype = accumulator(x.dtype)
    count = torch.zeros(batch, num_classes, dtype=torch.int64, device=x.device)
    mean = torch.zeros(batch, heads, num_classes, width, dtype=dtype, device=x.device)
    variance = torch.zeros_like(mean)
    for b in range(batch):
        for c in range(num_classes):
            member = (labels[b] == c).nonzero()[:, 0]  # [members]
            count[b, c] = len(member)
            if len(member) == 0:
                continue
            values = x[b][:, member].to(dtype)  # [H, members, D]
            mean[b, :, c] = values.mean(1)
            if len(member) > 1:
                values = values - mean[b, :, None, c]
                variance[b, :, c] = values.square_().sum(1) / (len(member) - 1)
    return ClassStatistics(count, mean, variance)
