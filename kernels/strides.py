"""What the Triton launchers ask of strides."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor


def alignment(*tensors: Tensor) -> int:
    """The largest power of two of elements, up to 16 bytes, that every stride but the last is a multiple of."""
    elements = 16 // tensors[0].element_size()
    while any(stride % elements for t in tensors for stride in t.stride()[:-1]):
        elements //= 2
    return elements


def folded_stride(x: Tensor, first: int, last: int) -> int | None:
    """The stride of dimensions first..last-1 taken as one; None where they do not fold, 1 where there are none."""
    sides = list(zip(x.shape[first:last], x.stride()[first:last], strict=True))
    sides = [(size, stride) for size, stride in sides if size > 1]
    for (_, outer), (size, inner) in pairwise(sides):
        if outer != size * inner:
            return None
    return sides[-1][1] if sides else 1
