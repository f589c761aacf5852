"""``impl="torch"``: GEGLU with no tensor beside its result."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def geglu(projected: Tensor) -> Tensor:
    """projected [..., 2·C] -> [..., C]; the product is formed in the memory of the gate's GELU."""
    value, gate = projected.chunk(2, -1)  # [..., C] each
    return F.gelu(gate).mul_(value)
