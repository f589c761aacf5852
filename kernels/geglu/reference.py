"""The specification: GEGLU written as its formula.

Float32 or float64, rounded once, at the end. Arguments are checked by the public function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.precision import widened


def geglu(projected: Tensor) -> Tensor:
    """projected [..., 2·C] -> [..., C]."""
    value, gate = widened(projected).chunk(2, -1)  # [..., C] each
    return (value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2).to(projected.dtype)
