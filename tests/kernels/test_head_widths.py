"""How widths of heads are held."""

from __future__ import annotations

import pytest

from kernels.head_widths import split_width


@pytest.mark.parametrize("width", range(8, 161))
def test_split_width_holds_every_column_in_powers_of_two(width: int) -> None:
    first, second = split_width(width)
    assert first + second >= width
    assert first >= 16
    assert second == 0 or 16 <= second < first
    assert all(part & (part - 1) == 0 for part in (first, second))
    power_of_two = max(16, 1 << (width - 1).bit_length())
    assert first + second <= power_of_two


def test_split_width_at_the_widths_of_stable_diffusion() -> None:
    assert [split_width(d) for d in (40, 80, 160)] == [(32, 16), (64, 16), (128, 32)]
