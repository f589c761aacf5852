"""The dtypes that sums are kept in."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over tensors of ``dtype`` are kept: float32, for float64 float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(x: Tensor) -> Tensor:
    """x in its `accumulator`'s dtype; x itself where it has that already."""
    return x.to(accumulator(x.dtype))
