"""Attention across images, class-wise statistics and layers: one contract for each operation, three implementations.

Every operation is a plain function with an explicit ``impl``:

- ``"reference"``: the specification, plain PyTorch in float32 or float64 on any device;
- ``"torch"``: PyTorch in blocks, never holding a map of all queries against all keys;
- ``"triton"``: fused GPU kernels, imported only when asked for.

An ``impl`` never falls back to another: what it cannot do, it refuses with every reason at once.
"""

from __future__ import annotations

from kernels.adain_features.api import adain_features
from kernels.checks import CONTRAST_RANGE
from kernels.cross_image_attention.api import cross_image_attention
from kernels.geglu.api import geglu
from kernels.group_norm.api import group_norm
from kernels.masked_adain.api import masked_adain
from kernels.results import AttentionResult, ClassStatistics, Implementation

__all__ = [
    "CONTRAST_RANGE",
    "AttentionResult",
    "ClassStatistics",
    "Implementation",
    "adain_features",
    "cross_image_attention",
    "geglu",
    "group_norm",
    "masked_adain",
]
