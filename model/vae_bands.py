"""The widest stages of the autoencoder in bands of rows whose features are held nowhere as a whole.

A field of 4096×4096 px has 17 GB of them in float32 at the decoder's widest. Here what comes after the last stage that
is held is computed for a band of rows at a time, with the rows around it that its convolutions see. Statistics of
norms are those of the whole grid, as in `model.vae_rows`: each norm's take a pass over all bands of what comes before
it, so a decoder works five to nine times as much, a tenth of what the UNet works for such a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cpu_layers import Conv2d
from model.layers import Downsample, ResnetBlock, Upsample
from model.vae_rows import Statistics, normaliser

Normalise = Callable[[Tensor], Tensor]


class Rows(Protocol):
    """Features [B, C, H, W] by their rows."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """B, C, H, W."""

    @property
    def row_values(self) -> int:
        """Values of the widest features on the way to one of its rows."""

    def rows(self, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom``, [B, C, bottom - top, W]. Not to be changed."""


@dataclass(frozen=True)
class Held:
    """Features that are there."""

    features: Tensor

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Rows.shape`."""
        batch, channels, height, width = self.features.shape
        return batch, channels, height, width

    @property
    def row_values(self) -> int:
        """As `Rows.row_values`."""
        return self.features[:, :, 0].numel()

    def rows(self, top: int, bottom: int) -> Tensor:
        """As `Rows.rows`."""
        return self.features[:, :, top:bottom]


@dataclass(frozen=True)
class Convolved:
    """A 3×3 convolution with padding 1 of ``source``, normalised before by ``prepare`` where it is given."""

    source: Rows
    conv: Conv2d
    prepare: Normalise | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Rows.shape`."""
        batch, _, height, width = self.source.shape
        return batch, self.conv.out_channels, height, width

    @property
    def row_values(self) -> int:
        """As `Rows.row_values`."""
        return max(self.source.row_values, _row(self))

    def rows(self, top: int, bottom: int) -> Tensor:
        """As `Rows.rows`."""
        height = self.shape[2]
        x = self.source.rows(max(top - 1, 0), min(bottom + 1, height))
        x = x if self.prepare is None else self.prepare(x)
        return _convolve(self.conv, x, top == 0, bottom == height)


@dataclass(frozen=True)
class Resnet:
    """A block of ``source`` without a time shift, its norms' statistics known."""

    source: Rows
    block: ResnetBlock
    first: Normalise
    second: Normalise

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Rows.shape`."""
        batch, _, height, width = self.source.shape
        return batch, self.block.conv1.out_channels, height, width

    @property
    def row_values(self) -> int:
        """As `Rows.row_values`."""
        return max(self.source.row_values, _row(self))

    def rows(self, top: int, bottom: int) -> Tensor:
        """As `Rows.rows`."""
        height = self.shape[2]
        start, stop = max(top - 2, 0), min(bottom + 2, height)
        x = self.source.rows(start, stop)
        inner = max(top - 1, 0), min(bottom + 1, height)
        near = x[:, :, max(inner[0] - 1, 0) - start : min(inner[1] + 1, height) - start]
        h = _convolve(self.block.conv1, self.first(near), inner[0] == 0, inner[1] == height)
        h = _convolve(self.block.conv2, self.second(h), top == 0, bottom == height)
        x = x[:, :, top - start : bottom - start]
        return h.add_(x if self.block.conv_shortcut is None else self.block.conv_shortcut(x))


@dataclass(frozen=True)
class Upsampled:
    """``source`` of twice the side, and a convolution."""

    source: Rows
    layer: Upsample

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Rows.shape`."""
        batch, channels, height, width = self.source.shape
        return batch, channels, 2 * height, 2 * width

    @property
    def row_values(self) -> int:
        """As `Rows.row_values`."""
        return max(self.source.row_values // 2, _row(self))

    def rows(self, top: int, bottom: int) -> Tensor:
        """As `Rows.rows`."""
        height = self.shape[2]
        start, stop = max(top - 1, 0), min(bottom + 1, height)
        first = start // 2
        x = F.interpolate(self.source.rows(first, (stop + 1) // 2), scale_factor=2.0, mode="nearest")
        x = x[:, :, start - 2 * first : stop - 2 * first]
        return _convolve(self.layer.conv, x, top == 0, bottom == height)


@dataclass(frozen=True)
class Downsampled:
    """``source`` of half the side: every other position of a convolution, padded at the right and bottom."""

    source: Rows
    layer: Downsample

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Rows.shape`."""
        batch, channels, height, width = self.source.shape
        return batch, channels, height // 2, width // 2

    @property
    def row_values(self) -> int:
        """As `Rows.row_values`."""
        return 2 * self.source.row_values

    def rows(self, top: int, bottom: int) -> Tensor:
        """As `Rows.rows`."""
        height = self.source.shape[2]
        x = self.source.rows(2 * top, min(2 * bottom + 1, height))
        return self.layer.conv(F.pad(x, (0, 1, 0, int(2 * bottom + 1 > height))))


def resnet(source: Rows, block: ResnetBlock, values: int) -> Resnet:
    """``block`` of ``source``, after a pass over it for each of its norms, in bands of about ``values`` features."""
    first = norm(block.norm1, source, values)
    return Resnet(source, block, first, norm(block.norm2, Convolved(source, block.conv1, first), values))


def norm(layer: nn.GroupNorm, source: Rows, values: int) -> Normalise:
    """``layer`` by the statistics of all of ``source``, then SiLU, as a function of some of its rows."""
    statistics = Statistics(layer.num_groups)
    for _, band in bands(source, values):
        statistics.see(band)
    return normaliser(layer, *statistics.result())


def bands(source: Rows, values: int) -> Iterator[tuple[int, Tensor]]:
    """The rows of ``source``, with about ``values`` values of the widest features on the way, and each band's first."""
    height, each = source.shape[2], max(1, values // source.row_values)
    for top in range(0, height, each):
        yield top, source.rows(top, min(top + each, height))


def whole(source: Rows, values: int) -> Tensor:
    """All of ``source``, put together from its bands."""
    if isinstance(source, Held):
        return source.features
    result: Tensor | None = None
    for top, band in bands(source, values):
        if result is None:
            result = torch.empty(source.shape, dtype=band.dtype, device=band.device, memory_format=_layout(band))
        result[:, :, top : top + band.shape[2]] = band
    assert result is not None
    return result


def held_if_small(source: Rows, itemsize: int, largest: int, values: int) -> Rows:
    """``source``, held if it takes no more than ``largest`` bytes."""
    batch, channels, height, width = source.shape
    return Held(whole(source, values)) if batch * channels * height * width * itemsize <= largest else source


def stage(source: Rows, resnets: Sequence[ResnetBlock], values: int) -> Rows:
    """``resnets`` of ``source``, one after the other."""
    for block in resnets:
        source = resnet(source, block, values)
    return source


def _row(features: Rows) -> int:
    batch, channels, _, width = features.shape
    return batch * channels * width


def _convolve(conv: Conv2d, x: Tensor, first: bool, last: bool) -> Tensor:
    """Of rows with one more on each side, or the ``first`` or ``last`` of the grid, beyond which there are zeros."""
    return conv.between_rows(F.pad(x, (0, 0, int(first), int(last))) if first or last else x)


def _layout(x: Tensor) -> torch.memory_format:
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
