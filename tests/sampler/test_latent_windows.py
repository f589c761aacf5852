"""Windows in latents: where they lie, and how one prediction comes of theirs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sampler.latent_windows import GRID, Layout, Window


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.875])
def test_windows_cover_a_field_and_overlap_as_much_as_asked(size, share):
    overlap = int(share * size) // GRID * GRID
    for side in range(GRID, 5 * size, GRID):
        layout = Layout.of(side, size, size, overlap)
        tops = [window.top for window in layout.windows]
        assert tops[0] == 0
        assert tops[-1] + layout.windows[-1].height == side
        assert all(top % GRID == 0 for top in tops)
        for before, after in pairwise(tops):
            assert before < after <= before + size - overlap
        fewest = 1 if side <= size else 1 - (side - size) // (overlap - size)
        assert len(tops) == fewest


def test_windows_of_fields_of_any_shape_are_of_one_size():
    layout = Layout.of(24, 72, 32, 8)
    assert {(window.height, window.width) for window in layout.windows} == {(24, 32)}
    assert Layout.of(24, 16, 32, 8).windows == (Window(0, 0, 24, 16),)
    for bad in ((20, 64, 32, 8), (64, 64, 30, 8), (64, 64, 32, 4), (64, 64, 32, 32), (64, 64, 32, -8)):
        with pytest.raises(ValueError, match="multiples of 8"):
            Layout.of(*bad)


def test_shares_add_up_to_one_and_are_one_where_there_is_one_window():
    layout = Layout.of(96, 136, 64, 16)
    like = torch.zeros(1, dtype=torch.float64)
    weights, total, count = layout.weights(like), torch.zeros(96, 136, dtype=torch.float64), torch.zeros(96, 136)
    for window in layout.windows:
        window.of(total).add_(weights[window])
        window.of(count).add_(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)
    for window in layout.windows:
        assert (weights[window][window.of(count) == 1] == 1).all()
        assert (weights[window] > 0).all()
    # None begins or ends with a step: what a window counts for at its edge inside the field is a small share.
    first = min(layout.windows)
    assert float(weights[first][-1, :16].max()) < 0.1
    assert float(weights[first][0, :16].min()) == 1


def test_parts_of_a_field_join_to_it_whatever_their_order():
    layout, field = Layout.of(96, 136, 64, 16), randn(4, 96, 136)
    weights = layout.weights(field)
    parts = {window: window.of(field) + 0.1 * randn(4, 64, 64, seed=i) for i, window in enumerate(layout.windows)}
    joined = layout.join(parts, weights)
    assert 0.01 < (joined - field).abs().mean() < 0.1
    for order in (layout.windows[::-1], tuple(sorted(layout.windows, key=lambda window: (window.left, -window.top)))):
        other = replace(layout, windows=order)
        assert torch.equal(other.join({window: parts[window] for window in order}, other.weights(field)), joined)
    agreeing = {window: window.of(field) for window in layout.windows}
    torch.testing.assert_close(layout.join(agreeing, weights), field, rtol=1e-6, atol=1e-6)
    with pytest.raises(KeyError):
        layout.join({window: parts[window] for window in layout.windows[1:]}, weights)


def test_a_window_is_cut_at_every_level_of_the_network():
    field = torch.arange(32 * 48).view(32, 48)
    window = Window(8, 16, 16, 24)
    assert torch.equal(window.of(field), field[8:24, 16:40])
    half = field[::2, ::2]
    assert torch.equal(window.of(half, 1), window.of(field)[::2, ::2])
