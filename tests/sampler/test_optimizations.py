"""Everything that is saved is saved exactly: the product's images are those of the method with nothing saved."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.optimizations import ORDER, Optimizations, cumulative, transfer_with
from sampler.execution import Execution
from sampler.presets import PRESETS
from sampler.reference import transfer
from sampler.series import Result, generate
from sampler.settings import Span
from tests.conftest import build_tiny
from tests.sampler.cases import SHORT, inputs

PREFIXES = cumulative()
SHORTER = replace(
    SHORT,
    steps=6,
    skip_steps=1,
    cross_attn_64=Span(1, 4),
    cross_attn_32=Span(1, 3),
    adain_range=Span(1, 5),
    structure_every=2,
)
CASES = {"winter": {}, "fresh noise": {"fresh_noise": 0.5}, "global": {"adain": "global"}}


@pytest.fixture(scope="module")
def exact():
    """The tiny model in float64, where rounding hides nothing."""
    return build_tiny(torch.float64)


def product(model, settings) -> Result:
    *_, result = generate(model, inputs(1), settings, seed=0, impl="torch")
    assert isinstance(result, Result)
    return result


def optimized(model, settings, optimizations: Optimizations) -> Result:
    return transfer_with(optimizations, model, inputs(1), settings, seed=0, execution=Execution())


def difference(a: Result, b: Result) -> float:
    return float((a.latents - b.latents).norm() / b.latents.norm())


def flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_every_optimization_has_its_place_in_the_order():
    assert list(ORDER) == [each.name for each in fields(Optimizations)]
    assert next(iter(PREFIXES.values())) == Optimizations()
    assert list(PREFIXES.values())[-1] == Optimizations(**dict.fromkeys(ORDER, True))


def oracle(model, settings) -> torch.Tensor:
    return transfer(model, inputs(1), settings, seed=0)


@pytest.mark.parametrize("name", CASES)
def test_images_are_those_of_the_method_with_nothing_saved(name, exact):
    settings = replace(SHORT, **CASES[name])
    result, expected = product(exact, settings), optimized(exact, settings, Optimizations())
    assert difference(result, expected) < 1e-6  # latents leave as float32
    assert np.abs(result.image.astype(int) - expected.image).max() <= 1


@pytest.mark.parametrize("changed", [{}, {"adain": "all"}, {"structure_every": 0}, {"adain_range": Span(0, 10)}])
def test_images_are_those_of_the_reference(changed, exact):
    settings = replace(SHORT, **changed)
    expected = oracle(exact, settings)
    for result in (product(exact, settings), optimized(exact, settings, Optimizations())):
        assert float((result.latents - expected).norm() / expected.norm()) < 1e-6


def test_no_optimization_changes_the_image(exact):
    expected = optimized(exact, SHORT, Optimizations())
    for optimizations in PREFIXES.values():
        assert difference(optimized(exact, SHORT, optimizations), expected) < 1e-6, optimizations
    expected = optimized(exact, SHORTER, Optimizations())
    for name in ORDER:
        alone = Optimizations(**{name: True})
        assert difference(optimized(exact, SHORTER, alone), expected) < 1e-6, alone


def test_what_is_swapped_shows(exact):
    expected = optimized(exact, SHORT, Optimizations())
    for other in (replace(SHORT, structure_every=0), replace(SHORT, cross_attn_32=None), replace(SHORT, adain="none")):
        assert difference(optimized(exact, other, Optimizations()), expected) > 1e-4, (
            "the comparisons would prove nothing"
        )


def test_each_optimization_costs_less_and_all_of_them_what_the_product_costs(tiny):
    costs = {
        name: flops(lambda s=optimizations: optimized(tiny, SHORTER, s)) for name, optimizations in PREFIXES.items()
    }
    for (before, more), (name, less) in pairwise(costs.items()):
        assert less <= more, f"{name} after {before}"
    # Attention without its map and norms in one kernel compute the same in less memory and fewer launches.
    assert len(set(costs.values())) == len(costs) - 2
    *_, least = costs.values()
    assert least == pytest.approx(flops(lambda: product(tiny, SHORTER)), rel=0.01)


@pytest.mark.parametrize("asked", [{"inversion": "ddim"}, {"within_class_attention": True}])
def test_settings_outside_the_family_are_refused(asked, tiny):
    with pytest.raises(ValueError, match=next(iter(asked))):
        optimized(tiny, replace(SHORT, **asked), Optimizations())
    with pytest.raises(ValueError, match="redenoise"):
        optimized(tiny, PRESETS["alaluf"], Optimizations())
