"""What a call of attention costs at the least, from its shapes: operations, exponentials, bytes.

Every measured time is reported as a share of the floor that these give.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.head_widths import split_width


@dataclass(frozen=True)
class Cost:
    """Of one call of cross-image attention."""

    flops: int  # of the matrix products at the true head width, 2 per multiply-add
    padded_flops: int  # the same at the width that the kernel holds
    exponentials: int
    bytes: int  # q, k, v and out, moved once


@dataclass(frozen=True)
class Limits:
    """What a device can do in a second."""

    flops: float
    exponentials: float
    bytes: float


# Dense float16 products as good libraries reach them, 16 exponentials a clock on each of 132 multiprocessors at
# 1.755 GHz, and sustained HBM3 traffic.
H100 = Limits(flops=800e12, exponentials=16 * 132 * 1.755e9, bytes=3.0e12)


def attention_cost(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    width: int,
    itemsize: int,
    *,
    contrast: bool,
) -> Cost:
    """Cost of one call.

    Without contrast there are two products and one exponential a score; with it the scores are computed twice.

    Args:
        batch: B.
        heads: H.
        queries: Nq.
        keys: Nk.
        width: D.
        itemsize: bytes of one element of q, k, v and out.
        contrast: whether the contrast differs from 1.
    """
    scores = batch * heads * queries * keys
    products = 3 if contrast else 2
    moved = batch * heads * (2 * queries + 2 * keys) * width * itemsize
    return Cost(
        flops=2 * products * scores * width,
        padded_flops=2 * products * scores * sum(split_width(width)),
        exponentials=(products - 1) * scores,
        bytes=moved,
    )


def floor_seconds(cost: Cost, limits: Limits) -> float:
    """The least time: products, exponentials and traffic overlap perfectly, and the slowest of them is all."""
    return max(
        cost.padded_flops / limits.flops,
        cost.exponentials / limits.exponentials,
        cost.bytes / limits.bytes,
    )
