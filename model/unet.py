"""The denoising UNet of Stable Diffusion 1.x (Rombach et al., arXiv 2112.10752), in parts that can be run apart.

``encode`` runs the down blocks and the middle, ``advance`` the decoder up to some layer, ``decode`` the rest; a state
between them is a value, so that passes which agree up to some layer share the work before it. Where a decoder layer
takes its keys and values from is an argument of the call (`Source`), never state of the network.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import Implementation
from model.config import UNetConfig
from model.free_u import FreeU
from model.layers import (
    Borrowed,
    Classes,
    Downsample,
    KeyValue,
    ResnetBlock,
    SpatialTransformer,
    TimestepMLP,
    Upsample,
    timestep_embedding,
)


class Layer(NamedTuple):
    """A self-attention layer of the decoder: ``level`` 0 is the latent resolution, 1 half of it, and so on."""

    level: int
    position: int


KeysValues = Mapping[Layer, KeyValue]


@dataclass(frozen=True)
class Source:
    """Where decoder layers take keys and values from: every layer in ``keys_values`` uses those given there.

    ``contrast`` is beta of method step 3 and ``impl`` the kernels' implementation, both for these layers; ``classes``
    are those of queries and keys by level, where attention is to know them.
    """

    keys_values: KeysValues
    contrast: float
    impl: Implementation
    classes: Mapping[int, Classes] = field(default_factory=dict)

    def at(self, layer: Layer) -> Borrowed | None:
        """What ``layer`` borrows, or None if it attends to itself."""
        key_value = self.keys_values.get(layer)
        if key_value is None:
            return None
        return Borrowed(key_value, self.contrast, self.impl, self.classes.get(layer.level))


@dataclass(frozen=True)
class State:
    """The UNet within its decoder: features ``h`` [B, C, H, W], what the down path left, time [B, 4·w0].

    ``before`` is the layer whose resnet has run and whose attention comes next; None before the first.
    """

    h: Tensor
    skips: tuple[Tensor, ...]
    time: Tensor
    before: Layer | None


class DownBlock(nn.Module):
    """Resnets, each followed by a transformer where the level has attention, then a down-sampling."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        first = config.widths[max(level - 1, 0)]
        ins = [first] + [width] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(_resnet(config, channels, width) for channels in ins)
        self.attentions = nn.ModuleList(_transformer(config, width) for _ in ins if config.attention[level])
        last = level == config.levels - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width, asymmetric=False)])


class UpBlock(nn.Module):
    """As `DownBlock`, one resnet more, each fed with a skip connection, then an up-sampling."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        below = config.widths[min(level + 1, config.levels - 1)]
        above = config.widths[max(level - 1, 0)]
        layers = config.layers_per_block
        ins = [below + width] + [2 * width] * (layers - 1) + [width + above]
        self.resnets = nn.ModuleList(_resnet(config, channels, width) for channels in ins)
        self.attentions = nn.ModuleList(_transformer(config, width) for _ in ins if config.attention[level])
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(width)])


class MidBlock(nn.Module):
    """Resnet, transformer, resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.resnets = nn.ModuleList(_resnet(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([_transformer(config, width)])


class UNet(nn.Module):
    """Predicts the noise in latents. Parameter names are those of the published diffusers checkpoints.

    Shapes: latents ``z`` [B, 4, h, w] with h and w multiples of ``2 ** (levels - 1)`` (8 in SD-1.x, so that image
    sides are multiples of 64); ``t`` int or integer tensor [B]; text states ``context`` [B or 1, 77, 768].
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_in = nn.Conv2d(config.in_channels, config.widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(config.widths[0])
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in range(config.levels))
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(range(config.levels)))
        self.conv_norm_out = nn.GroupNorm(config.groups, config.widths[0], eps=config.resnet_eps)
        self.conv_out = nn.Conv2d(config.widths[0], config.out_channels, 3, padding=1)

    def forward(
        self, z: Tensor, t: int | Tensor, context: Tensor, *, source: Source | None = None, free_u: FreeU | None = None
    ) -> Tensor:
        """Noise prediction eps [B, 4, h, w]."""
        return self.decode(self.encode(z, t, context), context, source=source, free_u=free_u)

    def layers(self, levels: Iterable[int]) -> list[Layer]:
        """The decoder's self-attention layers at ``levels``, in the order in which they run.

        Raises ValueError for a level without attention.
        """
        wanted = sorted(set(levels), reverse=True)
        for level in wanted:
            if not (0 <= level < self.config.levels and self.config.attention[level]):
                raise ValueError(f"level {level} of this UNet has no self-attention")
        return [Layer(level, index) for level in wanted for index in range(self.config.layers_per_block + 1)]

    def encode(self, z: Tensor, t: int | Tensor, context: Tensor) -> State:
        """Down blocks and middle. Raises ValueError if a side of ``z`` is not a multiple of 2 ** (levels - 1)."""
        multiple = 2 ** (self.config.levels - 1)
        if z.shape[-1] % multiple or z.shape[-2] % multiple:
            raise ValueError(f"latents of {z.shape[-2]}×{z.shape[-1]}: both sides must be multiples of {multiple}")
        context = context.expand(z.shape[0], -1, -1)
        steps = torch.as_tensor(t, device=z.device).expand(z.shape[0])
        time = self.time_embedding(timestep_embedding(steps, self.config.widths[0]).to(z.dtype))
        h = self.conv_in(z)
        skips = [h]
        for block in cast("Iterable[DownBlock]", self.down_blocks):
            for index, resnet in enumerate(block.resnets):
                h = resnet(h, time)
                if block.attentions:
                    h = block.attentions[index](h, context)
                skips.append(h)
            for downsample in block.downsamplers:
                h = downsample(h)
                skips.append(h)
        first, second = self.mid_block.resnets
        h = second(self.mid_block.attentions[0](first(h, time), context), time)
        return State(h, tuple(skips), time, before=None)

    def advance(self, state: State, context: Tensor, *, until: Layer, free_u: FreeU | None = None) -> State:
        """Run the decoder up to the attention of ``until``: what passes that differ only from there on share."""
        state, _ = self._up(state, context, None, free_u, [], until)
        return state

    def decode(
        self, state: State, context: Tensor, *, source: Source | None = None, free_u: FreeU | None = None
    ) -> Tensor:
        """The rest of the decoder and the output convolution: noise prediction [B, 4, h, w]."""
        state, _ = self._up(state, context, source, free_u, [], None)
        return self._out(state)

    def record(
        self, z: Tensor, t: int | Tensor, context: Tensor, levels: Iterable[int], *, free_u: FreeU | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Noise prediction [B, 4, h, w], and the decoder's self-attention keys and values at ``levels`` on the way."""
        state = self.encode(z, t, context)
        state, recorded = self._up(state, context, None, free_u, self.layers(levels), None)
        return self._out(state), recorded

    def keys_values(
        self, z: Tensor, t: int | Tensor, context: Tensor, levels: Iterable[int], *, free_u: FreeU | None = None
    ) -> KeysValues:
        """The decoder's self-attention keys and values at ``levels`` alone: the pass ends at the last of them."""
        wanted = self.layers(levels)
        if not wanted:
            return {}
        state = self.encode(z, t, context)
        state, recorded = self._up(state, context, None, free_u, wanted[:-1], wanted[-1])
        return {**recorded, wanted[-1]: self._attention(wanted[-1]).keys_values(state.h)}

    def _order(self) -> list[Layer]:
        positions = range(self.config.layers_per_block + 1)
        return [Layer(level, position) for level in reversed(range(self.config.levels)) for position in positions]

    def _block(self, level: int) -> UpBlock:
        return cast(UpBlock, self.up_blocks[self.config.levels - 1 - level])

    def _attention(self, layer: Layer) -> SpatialTransformer:
        return cast(SpatialTransformer, self._block(layer.level).attentions[layer.position])

    def _out(self, state: State) -> Tensor:
        return self.conv_out(F.silu(self.conv_norm_out(state.h)))

    def _up(
        self,
        state: State,
        context: Tensor,
        source: Source | None,
        free_u: FreeU | None,
        wanted: Container[Layer],
        until: Layer | None,
    ) -> tuple[State, dict[Layer, KeyValue]]:
        """Run the decoder to the attention of ``until`` or, for None, to the end; record ``wanted`` layers."""
        h, skips = state.h, list(state.skips)
        context = context.expand(h.shape[0], -1, -1)
        recorded: dict[Layer, KeyValue] = {}
        order = self._order()
        for layer in order if state.before is None else order[order.index(state.before) :]:
            block = self._block(layer.level)
            if layer != state.before:
                if free_u is not None and layer.position == 0:
                    h = free_u.apply(h, self.config.levels - 1 - layer.level)
                h = block.resnets[layer.position](torch.cat([h, skips.pop()], dim=1), state.time)
            if layer == until:
                break
            if block.attentions:
                attention = self._attention(layer)
                given: KeyValue | Borrowed | None = None if source is None else source.at(layer)
                if layer in wanted:
                    given = recorded[layer] = attention.keys_values(h)
                h = attention(h, context, given)
            if layer.position == self.config.layers_per_block:
                for upsample in block.upsamplers:
                    h = upsample(h)
        return replace(state, h=h, skips=tuple(skips), before=until), recorded


def _resnet(config: UNetConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    time_width = 4 * config.widths[0]
    return ResnetBlock(in_channels, out_channels, groups=config.groups, eps=config.resnet_eps, time_width=time_width)


def _transformer(config: UNetConfig, width: int) -> SpatialTransformer:
    return SpatialTransformer(
        width,
        heads=config.heads,
        context_width=config.context_width,
        groups=config.groups,
        group_norm_eps=config.transformer_group_norm_eps,
        eps=config.layer_norm_eps,
    )
