"""The UNet as the samplers see it: noise prediction under a text, plain or guided, and what an image lends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from kernels import Implementation
from model.free_u import FreeU
from model.unet import AttentionFeatures, Conditioning, KVSource, UNet
from sampler.cuda_graphs import Runner, call_eagerly

Times = int | Sequence[int]
"""One timestep for all latents of a call, or one for each."""


class Denoiser(Protocol):
    """Noise prediction: latents [B, 4, h, w] and timesteps -> eps [B, 4, h, w]."""

    def __call__(self, z: Tensor, t: Times) -> Tensor:
        """The prediction alone."""

    def record(self, z: Tensor, t: Times, levels: Sequence[int]) -> tuple[Tensor, AttentionFeatures]:
        """The prediction, and what the decoder's self-attention at ``levels`` lends."""


@dataclass(frozen=True)
class TextConditionedUNet:
    """A UNet under one text, at the timesteps of one run, called with latents of a wider type than its own.

    ``condition`` has a row for each timestep in ``rows``.
    """

    unet: UNet
    condition: Conditioning
    rows: Mapping[int, int]
    dtype: torch.dtype
    run: Runner = call_eagerly

    @staticmethod
    def of(
        unet: UNet,
        context: Tensor,
        times: Sequence[int],
        *,
        free_u: FreeU | None = None,
        impl: Implementation = "torch",
        run: Runner = call_eagerly,
    ) -> TextConditionedUNet:
        """Under text states ``context`` [1, 77, width] in the UNet's type, at ``times``.

        Every call goes through ``run``. A runner that replays must serve no other `TextConditionedUNet`.
        """
        steps = torch.tensor(times, device=context.device)
        condition = unet.condition(context, steps, free_u=free_u, impl=impl)
        return TextConditionedUNet(unet, condition, {t: row for row, t in enumerate(times)}, context.dtype, run)

    def at(self, t: Times) -> Conditioning:
        """The condition at timestep(s) ``t``. Raises KeyError for one that the run has not, ValueError for a gap."""
        rows = [self.rows[t]] if isinstance(t, int) else [self.rows[each] for each in t]
        if rows == list(range(rows[0], rows[-1] + 1)):
            return self.condition.rows(rows[0], rows[-1])
        raise ValueError(f"timesteps {t} are not neighbours in this run")

    def __call__(self, z: Tensor, t: Times) -> Tensor:
        """Noise prediction [B, 4, h, w] in the type of ``z``."""
        (eps,) = self._call("plain", lambda x, condition, _: [self.unet.predict(x, condition)], z, t)
        return eps.to(z.dtype)

    def record(self, z: Tensor, t: Times, levels: Sequence[int]) -> tuple[Tensor, AttentionFeatures]:
        """As a call, with what the self-attention at ``levels`` lends."""

        def work(x: Tensor, condition: Conditioning, _: KVSource | None) -> list[Tensor]:
            eps, lent = self.unet.record(x, condition, levels)
            return [eps, *lent.values()]

        eps, *tokens = self._call(("record", tuple(levels)), work, z, t)
        return eps.to(z.dtype), dict(zip(self.unet.layers(levels), tokens, strict=True))

    def lend(self, z: Tensor, t: Times, levels: Sequence[int]) -> AttentionFeatures:
        """What the self-attention at ``levels`` lends alone, which costs less than a whole pass."""

        def work(x: Tensor, condition: Conditioning, _: KVSource | None) -> list[Tensor]:
            return list(self.unet.lend(x, condition, levels).values())

        tokens = self._call(("lend", tuple(levels)), work, z, t)
        return dict(zip(self.unet.layers(levels), tokens, strict=True))

    def borrow(self, z: Tensor, t: int, source: KVSource) -> Tensor:
        """Noise prediction [B, 4, h, w] with keys and values from ``source``."""

        def work(x: Tensor, condition: Conditioning, given: KVSource | None) -> list[Tensor]:
            return [self.unet.predict(x, condition, source=given)]

        (eps,) = self._call("borrow", work, z, t, source)
        return eps.to(z.dtype)

    def both(self, z: Tensor, t: int, source: KVSource) -> tuple[Tensor, Tensor]:
        """Predictions with the image's own keys and with those of ``source``: one pass to the first that is lent."""

        def work(x: Tensor, condition: Conditioning, given: KVSource | None) -> list[Tensor]:
            shared = self.unet.encode(x, condition)
            shared = self.unet.advance(shared, condition, until=source.first)
            return [self.unet.decode(shared, condition), self.unet.decode(shared, condition, source=given)]

        own, swapped = self._call("both", work, z, t, source)
        return own.to(z.dtype), swapped.to(z.dtype)

    def _call(
        self,
        kind: Hashable,
        work: Callable[[Tensor, Conditioning, KVSource | None], list[Tensor]],
        z: Tensor,
        t: Times,
        source: KVSource | None = None,
    ) -> Sequence[Tensor]:
        """Run ``work`` on latents, condition and source; all that differs between calls goes through as tensors."""
        condition = self.at(t)
        lent = {} if source is None else source.lent
        inputs = [z.to(self.dtype), *condition.time_shifts.values(), *lent.values()]

        def flat(x: Tensor, *rest: Tensor) -> list[Tensor]:
            count = len(condition.time_shifts)
            time_shifts = dict(zip(condition.time_shifts, rest[:count], strict=True))
            tokens = dict(zip(lent, rest[count:], strict=True))
            given = None if source is None else replace(source, lent=tokens)
            return work(x, replace(condition, time_shifts=time_shifts), given)

        if source is not None and source.classes:
            # Classes are read by value in PyTorch's implementation, which no recording can.
            return flat(*inputs)
        return self.run((kind, tuple(lent)), flat, inputs)


@dataclass(frozen=True)
class CFGDenoiser:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): ``uncond + scale·(text - uncond)``."""

    text: TextConditionedUNet
    unconditional: TextConditionedUNet
    scale: float

    def __call__(self, z: Tensor, t: Times) -> Tensor:
        """Noise prediction [B, 4, h, w]; a scale of 1 costs one network call, any other two."""
        return self._guide(z, t, self.text(z, t))

    def record(self, z: Tensor, t: Times, levels: Sequence[int]) -> tuple[Tensor, AttentionFeatures]:
        """As a call, with what the text-conditioned pass lends at ``levels``."""
        text, lent = self.text.record(z, t, levels)
        return self._guide(z, t, text), lent

    def _guide(self, z: Tensor, t: Times, text: Tensor) -> Tensor:
        if self.scale == 1.0:
            return text
        base = self.unconditional(z, t)
        return base + self.scale * (text - base)
