"""Features by step: computed in runs of neighbouring steps, taken from the cache, the same in any order."""

from __future__ import annotations

import pytest
import torch

from model.unet_blocks import Layer
from sampler.feature_cache import in_place
from sampler.features import Features, FeaturesOfMany
from sampler.schedule import steps

SCHEDULE = steps(12)
WANTED = {2: (1, 0), 3: (1, 0), 4: (1, 0), 5: (0,), 6: (0,), 8: (0,)}
LATENTS = torch.randn(13, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Denoiser:
    """Features are the latents, scaled by timestep and level."""

    def __init__(self):
        self.calls = []

    def features(self, z, t, levels):
        self.calls.append(len(z))
        scale = torch.tensor(t, dtype=z.dtype)[:, None, None]
        return {Layer(level, 0): (level + 1) * scale * z.flatten(2) for level in levels}


def features(batch, cached=None, latents=LATENTS):
    denoiser = Denoiser()
    return Features(denoiser, latents, SCHEDULE, WANTED, cached or {}, batch), denoiser.calls


def expected(i, latents=LATENTS):
    return {Layer(level, 0): (level + 1) * SCHEDULE[i].t * latents[i : i + 1].flatten(2) for level in WANTED[i]}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for layer, tokens in found.items():
        torch.testing.assert_close(tokens, wanted[layer])


@pytest.mark.parametrize(("batch", "calls"), [(1, [1] * 6), (2, [2, 1, 2, 1]), (8, [3, 2, 1])])
def test_neighbouring_steps_of_the_same_levels_go_through_the_network_at_once(batch, calls):
    value, made = features(batch)
    for i in range(12):
        assert_same(value.at(i), expected(i) if i in WANTED else {})
    assert made == calls


def test_any_order_gives_the_same():
    value, _ = features(4)
    for i in (8, 3, 2, 6, 2, 5, 4, 3):
        assert_same(value.at(i), expected(i))


def test_what_is_cached_is_fetched_and_parts_the_runs():
    marked = {Layer(0, 0): torch.ones(1, 4, 64)}
    value, made = features(8, {3: in_place(marked)})
    found = {i: value.at(i) for i in WANTED}
    assert_same(found.pop(3), marked)
    for i, each in found.items():
        assert_same(each, expected(i))
    assert made == [1, 1, 2, 1]


def test_a_batch_looks_at_its_own_images_and_all_at_an_only_one():
    other = LATENTS.flip(0)
    one, two = features(4)[0], features(4, latents=other)[0]
    found = FeaturesOfMany([one, two], [1, 0, 1]).at(5)
    for row, latents in enumerate((other, LATENTS, other)):
        assert_same({layer: tokens[row : row + 1] for layer, tokens in found.items()}, expected(5, latents))
    assert_same(FeaturesOfMany([features(4)[0]], [0]).at(5), expected(5))
    assert FeaturesOfMany([features(4)[0], two], [0, 1]).at(7) == {}
