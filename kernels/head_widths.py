"""The widths of heads that the Triton kernels take, and how they are held."""

from __future__ import annotations

NARROWEST, WIDEST = 8, 160  # head widths D that the kernels take


def split_width(width: int) -> tuple[int, int]:
    """Two powers of two of at least 16, or one and 0, that together hold ``width`` columns with little to spare.

    40 is 32 + 16, 80 is 64 + 16, 160 is 128 + 32; 64 and 120 stay whole (64, 128).
    """
    whole = 16
    while whole < width:
        whole *= 2
    first = whole // 2
    rest = 16
    while rest < width - first:
        rest *= 2
    return (whole, 0) if first < 16 or first + rest >= whole else (first, rest)
