"""What the decoder's attention sees in an image, step by step, for another to look at (docs/method.md, step 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.unet_blocks import AttentionFeatures
from sampler.conditioned_unet import TextConditionedUNet
from sampler.feature_cache import CacheEntry
from sampler.schedule import Step

FeatureSchedule = Mapping[int, Sequence[int]]
"""The decoder levels whose features are wanted, by step i."""


@dataclass(frozen=True)
class Features:
    """An image's features at the steps and levels of ``wanted``: from the cache, or computed where they are asked for.

    ``latents`` [T + 1, 4, h, w] are those of its trajectory. What is not ``cached`` is computed for up to ``batch``
    neighbouring steps at once and held until asked for, so each step is best asked for once and in order.
    """

    denoiser: TextConditionedUNet
    latents: Tensor
    schedule: Sequence[Step]
    wanted: FeatureSchedule
    cached: Mapping[int, CacheEntry]
    batch: int
    _ahead: dict[int, AttentionFeatures] = field(default_factory=dict, init=False)

    def at(self, i: int) -> AttentionFeatures:
        """Tokens [1, N, C] by layer at step ``i``; nothing at a step that is not wanted."""
        if i not in self.wanted:
            return {}
        if i in self.cached:
            return self.cached[i].fetch(self.latents.device)
        if i not in self._ahead:
            self._ahead.clear()
            self._ahead.update(self._compute(i))
        return self._ahead.pop(i)

    def _compute(self, first: int) -> dict[int, AttentionFeatures]:
        levels, stop = self.wanted[first], first + 1
        while stop < first + self.batch and self.wanted.get(stop) == levels and stop not in self.cached:
            stop += 1
        steps = range(first, stop)
        found = self.denoiser.features(self.latents[first:stop], [self.schedule[i].t for i in steps], levels)
        return {i: row_of(found, row, levels) for row, i in enumerate(steps)}


@dataclass(frozen=True)
class JoinedFeatures:
    """The features of images that are looked at together, side by side."""

    images: Sequence[Features]

    def at(self, i: int) -> AttentionFeatures:
        """Tokens [1, ΣN, C] by layer at step ``i``."""
        found = [image.at(i) for image in self.images]
        return {layer: torch.cat([each[layer] for each in found], dim=1) for layer in found[0]}


@dataclass(frozen=True)
class FeaturesOfMany:
    """The features of several images, for a batch whose member b looks at image ``rows[b]``."""

    images: Sequence[Features | JoinedFeatures]
    rows: Sequence[int]

    def at(self, i: int) -> AttentionFeatures:
        """Tokens [B, N, C] by layer at step ``i``, or [1, N, C] where all look at the only image."""
        found = [image.at(i) for image in self.images]
        if len(found) == 1:
            return found[0]
        return {layer: torch.cat([found[row][layer] for row in self.rows]) for layer in found[0]}


def row_of(features: AttentionFeatures, row: int, levels: Sequence[int]) -> AttentionFeatures:
    """The features at ``levels`` of one image of a batch, [1, N, C] by layer: those of self-attention."""
    return {
        layer: tokens[row : row + 1] for layer, tokens in features.items() if layer.level in levels and not layer.text
    }
