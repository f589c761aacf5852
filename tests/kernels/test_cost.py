"""Costs counted from shapes, against the figures worked out by hand for an H100."""

from __future__ import annotations

import pytest

from kernels.cost import H100, attention_cost, floor_seconds


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
