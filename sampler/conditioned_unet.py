"""The UNet as the samplers see it: under a text, at the timesteps of a run, plain or guided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels import Implementation
from model.free_u import FreeU
from model.unet import Conditioning, Prediction, UNet
from model.unet_blocks import AttentionFeatures, KVSource, Wanted
from sampler.cuda_graphs import GraphedUNet, with_cuda_graphs

Times = int | Sequence[int]
"""One timestep for all latents of a call, or one for each."""


class Denoiser(Protocol):
    """Noise prediction: latents [B, 4, h, w] and timesteps -> eps [B, 4, h, w], and features of what is captured."""

    def __call__(self, z: Tensor, t: Times, *, capture: Iterable[Wanted] = ()) -> Prediction:
        """The prediction."""


@dataclass(frozen=True)
class TextConditionedUNet:
    """A UNet under one text, at the timesteps of one run, called with latents of a wider type than its own.

    The methods are those of `model.unet.UNet`, with a timestep in place of its conditioning, which has a row for each
    timestep in ``rows``.
    """

    unet: UNet | GraphedUNet
    conditioning: Conditioning
    rows: Mapping[int, int]
    dtype: torch.dtype

    @staticmethod
    def of(
        unet: UNet,
        context: Tensor,
        times: Sequence[int],
        *,
        free_u: FreeU | None = None,
        impl: Implementation = "torch",
        graphs: bool = False,
    ) -> TextConditionedUNet:
        """Under text states ``context`` [1, 77, cross_attention_dim] in the UNet's type, at ``times``."""
        conditioning = unet.condition(context, torch.tensor(times, device=context.device), free_u=free_u, impl=impl)
        rows = {t: row for row, t in enumerate(times)}
        return TextConditionedUNet(with_cuda_graphs(unet) if graphs else unet, conditioning, rows, context.dtype)

    def at(self, t: Times) -> Conditioning:
        """The conditioning at ``t``. Raises KeyError for a timestep that the run has not, ValueError for a gap."""
        rows = [self.rows[t]] if isinstance(t, int) else [self.rows[each] for each in t]
        if rows == list(range(rows[0], rows[-1] + 1)):
            return self.conditioning.rows(rows[0], rows[-1])
        raise ValueError(f"timesteps {t} are not neighbours in this run")

    def __call__(
        self, z: Tensor, t: Times, *, kv_source: KVSource | None = None, capture: Iterable[Wanted] = ()
    ) -> Prediction:
        """eps in the type of ``z``; features in the UNet's."""
        predicted = self.unet(z.to(self.dtype), self.at(t), kv_source=kv_source, capture=capture)
        return Prediction(predicted.eps.to(z.dtype), predicted.features)

    def self_and_cross(self, z: Tensor, t: Times, kv_source: KVSource) -> tuple[Tensor, Tensor]:
        """eps with the image's own keys and values, and with those of ``kv_source``."""
        own, cross = self.unet.self_and_cross(z.to(self.dtype), self.at(t), kv_source)
        return own.to(z.dtype), cross.to(z.dtype)

    def features(self, z: Tensor, t: Times, levels: Iterable[int]) -> AttentionFeatures:
        """The features at ``levels`` alone, which costs less than a whole pass."""
        return self.unet.features(z.to(self.dtype), self.at(t), levels)


@dataclass(frozen=True)
class CFGDenoiser:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): ``uncond + scale·(text - uncond)``."""

    text: TextConditionedUNet
    unconditional: TextConditionedUNet
    scale: float

    def __call__(self, z: Tensor, t: Times, *, capture: Iterable[Wanted] = ()) -> Prediction:
        """A scale of 1 costs one network call, any other two. Features are those of the pass under the text."""
        text = self.text(z, t, capture=capture)
        if self.scale == 1.0:
            return text
        base = self.unconditional(z, t).eps
        return Prediction(base + self.scale * (text.eps - base), text.features)
