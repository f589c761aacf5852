"""The shapes that benchmarks run at, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionShape:
    """One attention layer: q [batch, heads, tokens, width], as many keys as queries."""

    batch: int
    heads: int
    tokens: int
    width: int


# The layers of SD-1.5 at 512 x 512 whose keys and values are swapped, for one to eight images at once.
SWAPPED_LAYERS = tuple(
    AttentionShape(batch, 8, tokens, width) for tokens, width in ((4096, 40), (1024, 80)) for batch in (1, 2, 4, 8)
)

# Small enough for Triton's interpreter: shows that the benchmark runs, and times nothing worth knowing.
INTERPRETED = (AttentionShape(1, 1, 33, 40),)
