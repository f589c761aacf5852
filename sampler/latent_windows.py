"""Fields larger than the model's size: overlapping windows in latents, and one prediction from those of the windows.

Source: Bar-Tal et al., *MultiDiffusion*, arXiv 2302.08113 (equation 5: what agrees best with all windows is their
weighted mean at each position).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

GRID = 8
"""Latent positions: the sides of what SD-1.x's UNet takes are multiples of it, and all levels' grids begin at them."""


class Window(NamedTuple):
    """A part of a field, in latent positions. Windows sort from top to bottom, then from left to right."""

    top: int
    left: int
    height: int
    width: int

    def of(self, field: Tensor, level: int = 0) -> Tensor:
        """This part of ``field`` [..., H, W], whose grid is that of the UNet's ``level``, as a view."""
        top, left, height, width = (value >> level for value in self)
        return field[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class Layout:
    """The ``windows``, all of one size, that cover a field of ``height`` × ``width`` latent positions.

    They are worked on in their order, which changes no result.
    """

    height: int
    width: int
    windows: tuple[Window, ...]

    @staticmethod
    def of(height: int, width: int, size: int, overlap: int) -> Layout:
        """Windows of side ``size`` (of the field's side where that is smaller) that overlap by ``overlap`` at least.

        As few as can be, spread evenly, and each at a multiple of `GRID`. Raises ValueError for lengths that are not
        multiples of it, and for an overlap that is not less than the size.
        """
        if any(length % GRID for length in (height, width, size, overlap)) or not 0 <= overlap < size:
            raise ValueError(f"field {height}×{width}, windows {size}, overlap {overlap}: not multiples of {GRID}")
        down, across = min(height, size), min(width, size)
        starts = product(_starts(height, down, overlap), _starts(width, across, overlap))
        return Layout(height, width, tuple(Window(top, left, down, across) for top, left in starts))

    def groups(self, batch: int) -> Iterator[tuple[Window, ...]]:
        """The windows, ``batch`` at once."""
        for start in range(0, len(self.windows), batch):
            yield self.windows[start : start + batch]

    def weights(self, like: Tensor) -> dict[Window, Tensor]:
        """The share [h, w] of each window in the prediction at its positions; shares of one position add up to 1.

        They fall towards a window's edges, so that none begins or ends with a step. Exactly 1 where there is only one.
        """
        height, width = self.windows[0].height, self.windows[0].width
        tent = _tent(height)[:, None] * _tent(width)
        total = torch.zeros(self.height, self.width, dtype=torch.float64)
        for window in sorted(self.windows):
            window.of(total).add_(tent)
        return {window: (tent / window.of(total)).to(like.device, like.dtype) for window in self.windows}

    def join(self, parts: Mapping[Window, Tensor], weights: Mapping[Window, Tensor]) -> Tensor:
        """One prediction [C, H, W] from those of all windows, [C, h, w], which are added up in the windows' order."""
        first = parts[self.windows[0]]
        whole = first.new_zeros(len(first), self.height, self.width)
        for window in sorted(self.windows):
            window.of(whole).add_(weights[window] * parts[window])
        return whole


def _starts(side: int, window: int, overlap: int) -> list[int]:
    """Where windows begin along one side: the first at 0, the last so that it ends with the side."""
    free, stride = (side - window) // GRID, (window - overlap) // GRID
    gaps = -(-free // stride) if free else 0
    return [GRID * (free * gap // gaps) for gap in range(gaps)] + [GRID * free]


def _tent(length: int) -> Tensor:
    """1, 2, … up to the middle and down again, [length]."""
    up = torch.arange(1, length + 1, dtype=torch.float64)
    return torch.minimum(up, up.flip(0))
