"""Shortened schedules keep the preset's shape."""

from __future__ import annotations

import pytest

from benchmarks.schedules import shortened
from sampler.settings import PRESETS, Span


def test_a_hundred_steps_are_the_preset_itself():
    assert shortened(100) == PRESETS["winter"]


def test_ten_steps_have_every_kind_of_step():
    settings = shortened(10)
    assert (settings.start_step, settings.num_denoising_steps, settings.num_known_steps) == (3, 7, 1)
    assert settings.cross_attn_64 == Span(1, 9)
    assert settings.adain_range == Span(2, 10)
    swapped = [j for j in range(settings.num_denoising_steps) if settings.swapped_levels(j)]
    assert swapped == [1, 2, 3, 4, 5, 6]
    # 6 of 58 in the preset: one of six is nearer than none.
    assert [j for j in swapped if settings.borrows_from_structure(j)] == [2]


@pytest.mark.parametrize("steps", [20, 50, 200])
def test_the_share_of_steps_that_take_the_structures_keys_stays(steps):
    settings = shortened(steps)
    swapped = [j for j in range(settings.num_denoising_steps) if settings.swapped_levels(j)]
    taken = sum(settings.borrows_from_structure(j) for j in swapped)
    assert abs(taken - len(swapped) * 6 / 58) <= 1


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_too_few_steps_are_refused(steps):
    with pytest.raises(ValueError, match="too few"):
        shortened(steps)
