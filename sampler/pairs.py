"""What images are denoised from, one by one and as a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.transformer import Classes
from model.unet_blocks import AttentionFeatures
from sampler.conditioned_unet import TextConditionedUNet
from sampler.feature_cache import CacheEntry
from sampler.features import Features, FeatureSchedule, FeaturesOfMany, JoinedFeatures
from sampler.schedule import Step
from sampler.self_segmentation import Foreground, FoundMasks
from sampler.settings import Settings


@dataclass(frozen=True)
class Origin:
    """A real patch as denoising reads it. It depends on no target, so one value serves every further target.

    ``latents`` [T + 1, 4, h, w] are its trajectory x_0 … x_T, the last being the clean ones; those before the first
    executed step are not read. ``labels`` are its label maps by level of the UNet, level 0 at latent resolution, zeros
    where none were given. ``cached`` holds its features by step i; what is not there is computed where it is needed.
    ``foreground`` is what it was found to be, where that was asked for: then AdaIN goes by it and not by labels.
    """

    latents: Tensor
    labels: Mapping[int, Tensor]
    cached: Mapping[int, CacheEntry]
    foreground: Foreground | None = None

    def features(
        self, denoiser: TextConditionedUNet, schedule: Sequence[Step], wanted: FeatureSchedule, batch: int
    ) -> Features:
        """At the steps ``wanted``, ``batch`` steps at a time."""
        return Features(denoiser, self.latents, schedule, wanted, self.cached, batch)

    def latents_at(self, i: int) -> Tensor:
        """x_i [4, h, w]."""
        return self.latents[i]

    def labels_at(self, level: int) -> Tensor:
        """[h, w] at ``level``."""
        return self.labels[level]


@dataclass(frozen=True)
class JoinedOrigins:
    """Several origins as one: their positions side by side in one row, whatever their sizes (an extension)."""

    parts: tuple[Origin, ...]

    def features(
        self, denoiser: TextConditionedUNet, schedule: Sequence[Step], wanted: FeatureSchedule, batch: int
    ) -> JoinedFeatures:
        """Keys and values of all of them."""
        return JoinedFeatures([each.features(denoiser, schedule, wanted, batch) for each in self.parts])

    def latents_at(self, i: int) -> Tensor:
        """x_i [4, 1, Σh·w]."""
        return torch.cat([each.latents_at(i).flatten(1) for each in self.parts], dim=1)[:, None]

    def labels_at(self, level: int) -> Tensor:
        """[1, Σh·w] at ``level``."""
        return torch.cat([each.labels_at(level).flatten() for each in self.parts])[None]

    @property
    def foreground(self) -> None:
        """None was looked for: all of them have labels."""
        return None


@dataclass(frozen=True)
class Structure:
    """A target mask's painted image as denoising reads it: as `Origin`, and no origin enters it.

    ``noise_maps`` are the w_i [T, 4, h', w'], already mixed with fresh noise; None for deterministic steps.
    """

    latents: Tensor
    noise_maps: Tensor | None
    labels: Mapping[int, Tensor]
    cached: Mapping[int, CacheEntry]
    foreground: Foreground | None = None


@dataclass(frozen=True)
class TransferPair:
    """What one image is made from."""

    origin: Origin | JoinedOrigins
    structure: Structure

    @property
    def found(self) -> FoundMasks | None:
        """Both foregrounds, where they were found."""
        if self.origin.foreground is None or self.structure.foreground is None:
            return None
        return FoundMasks(self.origin.foreground, self.structure.foreground)


@dataclass(frozen=True)
class PairBatch:
    """Pairs that are denoised together: structure b with origin ``rows[b]`` of those that there are, each once.

    What is asked of origins is [B, …], or [1, …] where there is one for all. ``found`` are the pairs' foregrounds.
    """

    origins: Sequence[Origin | JoinedOrigins]
    structures: Sequence[Structure]
    rows: Sequence[int]
    found: Sequence[FoundMasks] = ()

    @staticmethod
    def of(pairs: Sequence[TransferPair]) -> PairBatch:
        """Origins of one size, structures of one size."""
        origins = list({id(pair.origin): pair.origin for pair in pairs}.values())
        number = {id(origin): row for row, origin in enumerate(origins)}
        rows = [number[id(pair.origin)] for pair in pairs]
        found = [pair.found for pair in pairs if pair.found is not None]
        # Which of an origin's positions AdaIN takes depends on the pair where foregrounds were found.
        shared = len(origins) == 1 and not found
        return PairBatch(origins, [pair.structure for pair in pairs], [0] if shared else rows, found)

    def origin_features(
        self, denoiser: TextConditionedUNet, schedule: Sequence[Step], wanted: FeatureSchedule, batch: int
    ) -> FeaturesOfMany:
        """The origins' features at the steps ``wanted``, ``batch`` steps at a time."""
        return FeaturesOfMany([each.features(denoiser, schedule, wanted, batch) for each in self.origins], self.rows)

    def structure_features(
        self, denoiser: TextConditionedUNet, schedule: Sequence[Step], wanted: FeatureSchedule
    ) -> FeaturesOfMany:
        """The structures' features at the steps ``wanted``."""
        images = [Features(denoiser, each.latents, schedule, wanted, each.cached, 1) for each in self.structures]
        return FeaturesOfMany(images, range(len(images)))

    def structure_latents(self, i: int) -> Tensor:
        """x_i of the structures, [B, 4, h', w']."""
        return torch.stack([structure.latents[i] for structure in self.structures])

    def origin_latents(self, i: int) -> Tensor:
        """x_i of the origins, [B or 1, 4, h, w]."""
        return torch.stack([self.origins[row].latents_at(i) for row in self.rows])

    def noise(self, i: int) -> Tensor | None:
        """w_i, [B, 4, h', w']; None for deterministic steps."""
        maps = [structure.noise_maps[i] for structure in self.structures if structure.noise_maps is not None]
        return torch.stack(maps) if maps else None

    def target_labels(self, level: int) -> Tensor:
        """Labels of the targets at ``level``, [B, h', w']."""
        return torch.stack([structure.labels[level] for structure in self.structures])

    def origin_labels(self, level: int) -> Tensor:
        """Labels of the origins at ``level``, [B or 1, h, w]."""
        return torch.stack([self.origins[row].labels_at(level) for row in self.rows])

    def latent_labels(self, num_classes: int, *, as_one: bool) -> tuple[Tensor, Tensor]:
        """Target's and origin's labels at latent resolution: 0..num_classes, the last for no class.

        ``as_one`` makes one class 0 of all classes, and 1 of no class. Where foregrounds were found, they are 0 and
        the rest is 1, or all is 0 where a pair's are too small.
        """
        target, origin = self.target_labels(0), self.origin_labels(0)
        if self.found:
            here = torch.stack([masks.matched("structure") for masks in self.found])
            there = torch.stack([masks.matched("origin") for masks in self.found])
            return (~here | (target == num_classes)).long(), (~there).long()
        if as_one:
            return (target == num_classes).long(), (origin == num_classes).long()
        return target, origin


def attention_classes(
    images: PairBatch, num_classes: int, settings: Settings, features: AttentionFeatures, *, from_structure: bool
) -> dict[int, Classes]:
    """The classes that attention is to know, by level; none in the method itself."""
    return classes_of(
        images.target_labels, images.origin_labels, num_classes, settings, features, from_structure=from_structure
    )


def classes_of(
    target_labels: Callable[[int], Tensor],
    origin_labels: Callable[[int], Tensor],
    num_classes: int,
    settings: Settings,
    features: AttentionFeatures,
    *,
    from_structure: bool,
) -> dict[int, Classes]:
    """As `attention_classes`, from labels [B, h', w'] and [B or 1, h, w] by level."""
    class_adain = settings.adain_features and not from_structure
    if not (class_adain or settings.within_class_attention):
        return {}
    result = {}
    for level in {layer.level for layer in features}:
        queries = target_labels(level).flatten(1)
        keys = queries if from_structure else origin_labels(level).flatten(1)
        # Queries of no class (label C) look at all keys and keep their statistics: no key may have their label.
        keys = torch.where(keys == num_classes, num_classes + 1, keys).expand(len(queries), -1)
        result[level] = Classes(queries, keys, num_classes + 2, settings.within_class_attention, class_adain)
    return result
