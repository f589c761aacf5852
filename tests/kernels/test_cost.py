"""Costs counted from shapes, against the figures worked out by hand for an H100."""

from __future__ import annotations

import pytest

from kernels.cost import H100, attention_cost, floor_seconds
from kernels.head_widths import split_width


def test_products_and_exponentials_of_the_largest_layer() -> None:
    cost = attention_cost(1, 8, 4096, 4096, 40, 2, contrast=True)
    assert cost.flops == 3 * 2 * 8 * 4096**2 * 40
    assert cost.padded_flops == cost.flops * 48 // 40
    assert cost.exponentials == 2 * 8 * 4096**2
    assert cost.bytes == 4 * 8 * 4096 * 40 * 2


def test_plain_attention_costs_two_products_and_one_exponential_a_score() -> None:
    cost = attention_cost(2, 8, 100, 50, 64, 4, contrast=False)
    assert cost.flops == cost.padded_flops == 2 * 2 * 2 * 8 * 100 * 50 * 64
    assert cost.exponentials == 2 * 8 * 100 * 50
    assert cost.bytes == 2 * 8 * 2 * (100 + 50) * 64 * 4


def test_labels_and_statistics_are_counted() -> None:
    without = attention_cost(1, 8, 100, 50, 64, 4, contrast=False)
    labelled = attention_cost(1, 8, 100, 50, 64, 4, contrast=False, classes=3)
    assert labelled.bytes - without.bytes == (100 + 50) * 8 + 2 * 3 * (8 + 8 * 64 * 8)


@pytest.mark.parametrize(
    ("tokens", "width", "products", "exponentials"), [(4096, 40, 48e-6, 72e-6), (1024, 80, 5e-6, 4.5e-6)]
)
def test_floors_on_an_h100(tokens: int, width: int, products: float, exponentials: float) -> None:
    cost = attention_cost(1, 8, tokens, tokens, width, 2, contrast=True)
    assert cost.padded_flops / H100.flops == pytest.approx(products, rel=0.03)
    assert cost.exponentials / H100.exponentials == pytest.approx(exponentials, rel=0.03)
    assert floor_seconds(cost, H100) == pytest.approx(max(products, exponentials), rel=0.03)


def test_batch_and_heads_scale_every_cost() -> None:
    one = attention_cost(1, 1, 64, 96, 40, 2, contrast=True)
    many = attention_cost(3, 5, 64, 96, 40, 2, contrast=True)
    for name, value in vars(one).items():
        assert getattr(many, name) == 15 * value


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
