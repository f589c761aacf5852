"""How a run is computed. Nothing here changes a result beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernels import Implementation
from sampler.feature_cache import CacheBudget


@dataclass(frozen=True)
class Execution:
    """``impl`` computes swapped attention and AdaIN, norms and gates.

    ``batch`` latents go through the UNet at once: images of a series, or timesteps where these do not depend on each
    other. With ``graphs`` each kind of UNet call is recorded as a CUDA graph at its first use and replayed from then
    on; for a CUDA device alone. ``budget`` is the room for an origin's features, if more than one batch needs them.
    """

    impl: Implementation = "torch"
    batch: int = 1
    graphs: bool = False
    budget: CacheBudget = field(default_factory=CacheBudget)
