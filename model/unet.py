"""The denoising UNet of Stable Diffusion 1.x (Rombach et al., arXiv 2112.10752).

Three ways in: the call predicts noise, `UNet.self_and_cross` predicts it twice where the two passes differ in whom they
look at, `UNet.features` stops as soon as it has what another image wants to look at. What does not depend on the
latents is a value (`Conditioning`), made once for all calls of a run. Where decoder layers take keys and values from is
an argument (`KVSource`), never state of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from kernels import Implementation
from model.config import UNetConfig
from model.cpu_layers import Conv2d
from model.free_u import FreeU
from model.layers import TimestepMLP, normalise, timestep_embedding
from model.transformer import SpatialTransformer
from model.unet_blocks import (
    AttentionFeatures,
    Block,
    BlockConditioning,
    Capture,
    DownBlock,
    KVSource,
    Layer,
    MidBlock,
    UpBlock,
    Wanted,
)


@dataclass(frozen=True)
class Conditioning:
    """All that a call needs besides the latents. Made once for a run, by `UNet.condition`.

    ``blocks`` has an entry for each block, in the order in which they run: down, middle, up. ``free_u`` is None or acts
    on every call; ``impl`` is the implementation of the norms and gates.
    """

    blocks: Sequence[BlockConditioning]
    free_u: FreeU | None
    impl: Implementation

    def rows(self, first: int, last: int) -> Conditioning:
        """The same with rows ``first`` to ``last`` of the time shifts alone: views, nothing is copied or computed."""
        return self.with_time_shifts(shift[first : last + 1] for shift in self.time_shifts)

    @property
    def time_shifts(self) -> list[Tensor]:
        """The time shifts [rows, C, 1, 1] of all resnets, in the order in which they run."""
        return [shift for block in self.blocks for shift in block.time_shifts]

    def with_time_shifts(self, time_shifts: Iterable[Tensor]) -> Conditioning:
        """The same under other time shifts, in the order of `time_shifts`."""
        shifts = iter(time_shifts)
        blocks = [block.with_time_shifts([next(shifts) for _ in block.time_shifts]) for block in self.blocks]
        return replace(self, blocks=blocks)


class Prediction(NamedTuple):
    """The noise ``eps`` [B, 4, h, w] in latents, and the attention's features at the levels that were asked for."""

    eps: Tensor
    features: AttentionFeatures


class UNet(nn.Module):
    """Predicts the noise in latents. Parameter names are those of the published diffusers checkpoints.

    Shapes: latents ``z`` [B, 4, h, w] with h and w multiples of ``2 ** (levels - 1)`` (8 in SD-1.x, so that image
    sides are multiples of 64); ``t`` int or integer tensor [B]; text states ``context`` [B or 1, 77, 768].
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels[0]
        self.conv_in = Conv2d(config.in_channels, channels, 3, padding=1)
        self.time_embedding = TimestepMLP(channels)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in range(config.levels))
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(range(config.levels)))
        self.conv_norm_out = nn.GroupNorm(config.groups, channels, eps=config.resnet_eps)
        self.conv_out = Conv2d(channels, config.out_channels, 3, padding=1)

    @overload
    def forward(
        self, z: Tensor, cond: Conditioning, *, kv_source: KVSource | None = None, capture: Iterable[Wanted] = ()
    ) -> Prediction: ...

    @overload
    def forward(
        self, z: Tensor, cond: int | Tensor, context: Tensor, *, kv_source: KVSource | None = None
    ) -> Tensor: ...

    def forward(
        self,
        z: Tensor,
        cond: Conditioning | int | Tensor,
        context: Tensor | None = None,
        *,
        kv_source: KVSource | None = None,
        capture: Iterable[Wanted] = (),
    ) -> Prediction | Tensor:
        """Noise prediction, with keys and values from ``kv_source`` where it has some; and features on the way.

        ``capture`` names the levels whose self-attention's features are wanted, or single layers. Called as published
        UNets are, with timesteps ``t`` and text states ``context`` in place of ``cond``, it gives eps [B, 4, h, w].

        Raises:
            ValueError: a side of ``z`` is not a multiple of 2 ** (levels - 1), or a captured layer is not there.
        """
        if not isinstance(cond, Conditioning):
            if context is None:
                raise ValueError("timesteps want text states beside them: unet(z, t, context)")
            return self.forward(z, self.condition(context, cond), kv_source=kv_source).eps
        captured = Capture(self.layers(capture))
        (h,) = self._decode(*self._encode(z, cond), cond, [kv_source], captured)
        return Prediction(self._out(h, cond), captured.features)

    def self_and_cross(self, z: Tensor, cond: Conditioning, kv_source: KVSource) -> tuple[Tensor, Tensor]:
        """eps with the image's own keys and values, and with those of ``kv_source``: one pass to the first such layer.

        Raises ValueError as the call does, and for a source without features.
        """
        if not kv_source.features:
            raise ValueError("the source has no features: the two predictions would be one")
        own, cross = self._decode(*self._encode(z, cond), cond, [None, kv_source], Capture(()))
        return self._out(own, cond), self._out(cross, cond)

    def features(self, z: Tensor, cond: Conditioning, levels: Iterable[Wanted]) -> AttentionFeatures:
        """The features at ``levels``, as the call captures them: the pass ends with the last layer that has them.

        Raises ValueError as the call does.
        """
        captured = Capture(self.layers(levels), stop=True)
        if not captured.finished:
            self._decode(*self._encode(z, cond), cond, [None], captured)
        return captured.features

    def condition(
        self, context: Tensor, t: int | Tensor, *, free_u: FreeU | None = None, impl: Implementation = "torch"
    ) -> Conditioning:
        """What the calls at timesteps ``t``, int or [rows], under the text states ``context`` have in common."""
        steps = torch.as_tensor(t, device=context.device).reshape(-1)
        embedding = timestep_embedding(steps, self.config.block_out_channels[0])
        time = self.time_embedding(embedding.to(context.dtype))
        return Conditioning([block.condition(context, time) for block in self._blocks()], free_u, impl)

    def layers(self, wanted: Iterable[Wanted]) -> list[Layer]:
        """The decoder's self-attention layers at levels, and single layers, in the order in which they run.

        Raises ValueError for a level without attention, and for a layer that is not there.
        """
        positions, layers = range(self.config.layers_per_block + 1), set()
        for each in wanted:
            level = each.level if isinstance(each, Layer) else each
            if not (0 <= level < self.config.levels and self.config.attention[level]):
                raise ValueError(f"level {level} of this UNet has no self-attention")
            if isinstance(each, Layer) and each.position not in positions:
                raise ValueError(f"level {level} of this UNet has {len(positions)} layers, no number {each.position}")
            layers.update([each] if isinstance(each, Layer) else [Layer(level, position) for position in positions])
        return sorted(layers, key=lambda layer: (-layer.level, layer.position, layer.text))

    def queries_keys(self, layer: Layer, tokens: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        """What the decoder's ``layer`` makes of its captured ``tokens`` [B, N, C]: queries and keys, [B, h, N, D].

        Of attention to the text the keys are the text's, [B or 1, h, 77, D].
        """
        number = self.config.levels - 1 - layer.level
        block = cast(SpatialTransformer, cast(UpBlock, self.up_blocks[number]).attentions[layer.position]).block
        if not layer.text:
            return block.attn1.queries(tokens), block.attn1.split(block.attn1.to_k(tokens))
        text = cond.blocks[self.config.levels + 1 + number].text[layer.position]
        return block.attn2.queries(tokens), text.key

    def fuse(self) -> None:
        """Lay the projections of every self-attention together, for speed. Once the weights are final."""
        for layer in self.modules():
            if isinstance(layer, SpatialTransformer):
                layer.block.attn1.fuse()

    def _blocks(self) -> Iterator[Block]:
        return (cast(Block, block) for block in (*self.down_blocks, self.mid_block, *self.up_blocks))

    def _encode(self, z: Tensor, cond: Conditioning) -> tuple[Tensor, list[Tensor]]:
        """Down blocks and middle: features [B, C, H, W] of the lowest resolution, and all skip connections."""
        multiple = 2 ** (self.config.levels - 1)
        if z.shape[-1] % multiple or z.shape[-2] % multiple:
            raise ValueError(f"latents of {z.shape[-2]}×{z.shape[-1]}: both sides must be multiples of {multiple}")
        skips, levels = [self.conv_in(z)], self.config.levels
        for block, given in zip(self.down_blocks, cond.blocks[:levels], strict=True):
            skips += block(skips[-1], given, cond.impl)
        return self.mid_block(skips[-1], cond.blocks[levels], cond.impl), skips

    def _decode(
        self,
        h: Tensor,
        skips: list[Tensor],
        cond: Conditioning,
        kv_sources: Sequence[KVSource | None],
        capture: Capture,
    ) -> list[Tensor]:
        """Up blocks: features [B, C, h, w] for each of ``kv_sources``. Uses up the ``skips``."""
        passes = [h]
        for number, (block, given) in enumerate(
            zip(self.up_blocks, cond.blocks[self.config.levels + 1 :], strict=True)
        ):
            if cond.free_u is not None:
                passes = [cond.free_u.apply(h, number) for h in passes]
            passes = block(passes, skips, given, kv_sources, capture, cond.impl)
            if capture.finished:
                break
        return passes

    def _out(self, h: Tensor, cond: Conditioning) -> Tensor:
        return self.conv_out(normalise(self.conv_norm_out, h, silu=True, impl=cond.impl))
