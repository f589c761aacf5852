"""The types that operations share: what they return and how an implementation is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Implementation = Literal["reference", "torch", "triton"]


@dataclass(frozen=True)
class ClassStatistics:
    """Count, mean and variance of a tensor [B, H, N, D] over the positions of each of C classes.

    The variance is the unbiased one (divided by count - 1). A class without a position has count, mean and
    variance 0; a class with one has variance 0. Mean and variance are float32, or float64 for float64 input.
    """

    count: Tensor  # [B, C], int64
    mean: Tensor  # [B, H, C, D]
    variance: Tensor  # [B, H, C, D]


class AttentionResult(NamedTuple):
    """Attention with labels: the output and the statistics that feature-wise AdaIN needs."""

    out: Tensor  # [B, H, Nq, D]
    query: ClassStatistics  # of out, over the queries of each class
    key: ClassStatistics  # of v, over the keys of each class
