"""Everything that is saved is saved exactly: the product's images are those of the method with nothing saved."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.optimizations import ORDER, Savings, cumulative, unsaved
from sampler.execution import Execution
from sampler.series import Result, generate
from sampler.settings import PRESETS, Span
from tests.conftest import build_tiny
from tests.sampler.test_series import SHORT, patch

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
    *_, result = generate(model, patch(1), settings, seed=0, impl="torch")
    assert isinstance(result, Result)
    return result


def reference(model, settings, savings: Savings) -> Result:
    return unsaved(model, patch(1), settings, seed=0, savings=savings, execution=Execution())


def difference(a: Result, b: Result) -> float:
    return float((a.latents - b.latents).norm() / b.latents.norm())


def flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_every_saving_has_its_place_in_the_order():
    assert list(ORDER) == [each.name for each in fields(Savings)]
    assert next(iter(PREFIXES.values())) == Savings()
    assert list(PREFIXES.values())[-1] == Savings(**dict.fromkeys(ORDER, True))


@pytest.mark.parametrize("name", CASES)
def test_images_are_those_of_the_method_with_nothing_saved(name, exact):
    settings = replace(SHORT, **CASES[name])
    result, expected = product(exact, settings), reference(exact, settings, Savings())
    assert difference(result, expected) < 1e-6  # latents leave as float32
    assert np.abs(result.image.astype(int) - expected.image).max() <= 1


def test_no_saving_changes_the_image(exact):
    expected = reference(exact, SHORT, Savings())
    for savings in PREFIXES.values():
        assert difference(reference(exact, SHORT, savings), expected) < 1e-6, savings
    expected = reference(exact, SHORTER, Savings())
    for name in ORDER:
        alone = Savings(**{name: True})
        assert difference(reference(exact, SHORTER, alone), expected) < 1e-6, alone


def test_what_is_swapped_shows(exact):
    expected = reference(exact, SHORT, Savings())
    for other in (replace(SHORT, structure_every=0), replace(SHORT, cross_attn_32=None), replace(SHORT, adain="none")):
        assert difference(reference(exact, other, Savings()), expected) > 1e-4, "the comparisons would prove nothing"


def test_each_saving_costs_less_and_all_of_them_what_the_product_costs(tiny):
    costs = {name: flops(lambda s=savings: reference(tiny, SHORTER, s)) for name, savings in PREFIXES.items()}
    for (before, more), (name, less) in pairwise(costs.items()):
        assert less <= more, f"{name} after {before}"
    # Attention without its map and norms in one kernel compute the same in less memory and fewer launches.
    assert len(set(costs.values())) == len(costs) - 2
    *_, least = costs.values()
    assert least == pytest.approx(flops(lambda: product(tiny, SHORTER)), rel=0.01)


@pytest.mark.parametrize("asked", [{"inversion": "ddim"}, {"restrict_attention": True}])
def test_settings_outside_the_family_are_refused(asked, tiny):
    with pytest.raises(ValueError, match=next(iter(asked))):
        reference(tiny, replace(SHORT, **asked), Savings())
    with pytest.raises(ValueError, match="redenoise"):
        reference(tiny, PRESETS["alaluf"], Savings())
