"""The denoising UNet of Stable Diffusion 1.x (Rombach et al., arXiv 2112.10752), in parts that can be run apart.

``encode`` runs the down blocks and the middle, ``advance`` the decoder up to some layer, ``decode`` the rest; a state
between them is a value, so that passes which agree up to some layer share the work before it. What does not depend on
the latents is a value too (`Conditioning`), made once for all calls of a run. Where a decoder layer takes its keys and
values from is an argument of the call (`KVSource`), never state of the network.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kernels import Implementation
from model.config import UNetConfig
from model.cpu_layers import Conv2d
from model.free_u import FreeU
from model.layers import Downsample, ResnetBlock, TimestepMLP, Upsample, normalise, timestep_embedding
from model.transformer import Classes, KeyValue, LayerKVSource, SpatialTransformer


class Layer(NamedTuple):
    """A self-attention layer of the decoder: ``level`` 0 is the latent resolution, 1 half of it, and so on."""

    level: int
    position: int


AttentionFeatures = Mapping[Layer, Tensor]
"""What an image lends to others: the tokens [B, N, C] that each self-attention layer made its keys and values from."""


@dataclass(frozen=True)
class KVSource:
    """Where decoder layers take keys and values from: every layer in ``lent`` makes them from the tokens given there.

    ``contrast`` is beta of method step 3 and ``impl`` the attention's implementation, both for these layers;
    ``classes`` are those of queries and keys by level, where attention is to know them.
    """

    lent: AttentionFeatures
    contrast: float
    impl: Implementation
    classes: Mapping[int, Classes] = field(default_factory=dict)

    @property
    def first(self) -> Layer:
        """The first of the layers that borrow, in the order in which they run."""
        return min(self.lent, key=lambda layer: (-layer.level, layer.position))

    def at(self, layer: Layer) -> LayerKVSource | None:
        """What ``layer`` borrows, or None if it attends to itself."""
        tokens = self.lent.get(layer)
        if tokens is None:
            return None
        return LayerKVSource(tokens, self.contrast, self.impl, self.classes.get(layer.level))


@dataclass(frozen=True)
class Conditioning:
    """All that a call needs besides the latents. Made once for a run, by `UNet.condition`.

    ``text`` holds each transformer's keys and values of the text, [B or 1, h, 77, D], ``time_shifts`` each resnet's,
    [rows, C, 1, 1] with one row for all images or one for each. ``free_u`` is None or acts on every call;
    ``impl`` is the implementation of the norms and gates.
    """

    text: Mapping[nn.Module, KeyValue]
    time_shifts: Mapping[nn.Module, Tensor]
    free_u: FreeU | None
    impl: Implementation

    def rows(self, first: int, last: int) -> Conditioning:
        """The same with rows ``first`` to ``last`` of the shifts alone: views, so nothing is copied or computed."""
        return replace(
            self, time_shifts={resnet: shift[first : last + 1] for resnet, shift in self.time_shifts.items()}
        )


@dataclass(frozen=True)
class State:
    """The UNet within its decoder: features ``h`` [B, C, H, W], and what the down path left.

    ``before`` is the layer whose resnet has run and whose attention comes next; None before the first.
    """

    h: Tensor
    skips: tuple[Tensor, ...]
    before: Layer | None


class DownBlock(nn.Module):
    """Resnets, each followed by a transformer where the level has attention, then a down-sampling."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width = config.block_out_channels[level]
        first = config.block_out_channels[max(level - 1, 0)]
        ins = [first] + [width] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(_resnet(config, channels, width) for channels in ins)
        self.attentions = nn.ModuleList(_transformer(config, width) for _ in ins if config.attention[level])
        last = level == config.levels - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width, asymmetric=False)])


class UpBlock(nn.Module):
    """As `DownBlock`, one resnet more, each fed with a skip connection, then an up-sampling."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width = config.block_out_channels[level]
        below = config.block_out_channels[min(level + 1, config.levels - 1)]
        above = config.block_out_channels[max(level - 1, 0)]
        layers = config.layers_per_block
        ins = [below + width] + [2 * width] * (layers - 1) + [width + above]
        self.resnets = nn.ModuleList(_resnet(config, channels, width) for channels in ins)
        self.attentions = nn.ModuleList(_transformer(config, width) for _ in ins if config.attention[level])
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(width)])


class MidBlock(nn.Module):
    """Resnet, transformer, resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
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
        self.conv_in = Conv2d(config.in_channels, config.block_out_channels[0], 3, padding=1)
        self.time_embedding = TimestepMLP(config.block_out_channels[0])
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in range(config.levels))
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(range(config.levels)))
        self.conv_norm_out = nn.GroupNorm(config.groups, config.block_out_channels[0], eps=config.resnet_eps)
        self.conv_out = Conv2d(config.block_out_channels[0], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor, t: int | Tensor, context: Tensor, *, source: KVSource | None = None) -> Tensor:
        """Noise prediction eps [B, 4, h, w]. Where many calls share text or timesteps, `predict` saves work."""
        return self.predict(z, self.condition(context, t), source=source)

    def condition(
        self, context: Tensor, t: int | Tensor, *, free_u: FreeU | None = None, impl: Implementation = "torch"
    ) -> Conditioning:
        """What the calls at timesteps ``t``, int or [rows], under the text states ``context`` have in common."""
        steps = torch.as_tensor(t, device=context.device).reshape(-1)
        time = self.time_embedding(timestep_embedding(steps, self.config.block_out_channels[0]).to(context.dtype))
        text: dict[nn.Module, KeyValue] = {}
        time_shifts: dict[nn.Module, Tensor] = {}
        for layer in self.modules():
            if isinstance(layer, SpatialTransformer):
                text[layer] = layer.text(context)
            elif isinstance(layer, ResnetBlock):
                time_shifts[layer] = layer.shift(time)
        return Conditioning(text, time_shifts, free_u, impl)

    def fuse(self) -> None:
        """Lay the projections of every self-attention together, for speed. Once the weights are final."""
        for layer in self.modules():
            if isinstance(layer, SpatialTransformer):
                layer.block.attn1.fuse()

    def layers(self, levels: Iterable[int]) -> list[Layer]:
        """The decoder's self-attention layers at ``levels``, in the order in which they run.

        Raises ValueError for a level without attention.
        """
        wanted = sorted(set(levels), reverse=True)
        for level in wanted:
            if not (0 <= level < self.config.levels and self.config.attention[level]):
                raise ValueError(f"level {level} of this UNet has no self-attention")
        return [Layer(level, index) for level in wanted for index in range(self.config.layers_per_block + 1)]

    def predict(self, z: Tensor, condition: Conditioning, *, source: KVSource | None = None) -> Tensor:
        """Noise prediction eps [B, 4, h, w]."""
        return self.decode(self.encode(z, condition), condition, source=source)

    def encode(self, z: Tensor, condition: Conditioning) -> State:
        """Down blocks and middle. Raises ValueError if a side of ``z`` is not a multiple of 2 ** (levels - 1)."""
        multiple = 2 ** (self.config.levels - 1)
        if z.shape[-1] % multiple or z.shape[-2] % multiple:
            raise ValueError(f"latents of {z.shape[-2]}×{z.shape[-1]}: both sides must be multiples of {multiple}")
        h = self.conv_in(z)
        skips = [h]
        for block in cast("Iterable[DownBlock]", self.down_blocks):
            for index, resnet in enumerate(block.resnets):
                h = _run(resnet, h, condition)
                if block.attentions:
                    h = _attend(block.attentions[index], h, condition)
                skips.append(h)
            for downsample in block.downsamplers:
                h = downsample(h)
                skips.append(h)
        first, second = self.mid_block.resnets
        h = _attend(self.mid_block.attentions[0], _run(first, h, condition), condition)
        return State(_run(second, h, condition), tuple(skips), before=None)

    def advance(self, state: State, condition: Conditioning, *, until: Layer) -> State:
        """Run the decoder up to the attention of ``until``: what passes that differ only from there on share."""
        state, _ = self._up(state, condition, None, [], until)
        return state

    def decode(self, state: State, condition: Conditioning, *, source: KVSource | None = None) -> Tensor:
        """The rest of the decoder and the output convolution: noise prediction [B, 4, h, w]."""
        state, _ = self._up(state, condition, source, [], None)
        return self._out(state, condition)

    def record(self, z: Tensor, condition: Conditioning, levels: Iterable[int]) -> tuple[Tensor, AttentionFeatures]:
        """Noise prediction [B, 4, h, w], and what the decoder's self-attention at ``levels`` lends on the way."""
        state, lent = self._up(self.encode(z, condition), condition, None, self.layers(levels), None)
        return self._out(state, condition), lent

    def lend(self, z: Tensor, condition: Conditioning, levels: Iterable[int]) -> AttentionFeatures:
        """What the decoder's self-attention at ``levels`` lends alone: the pass ends at the last of them."""
        wanted = self.layers(levels)
        if not wanted:
            return {}
        last = wanted[-1]
        state, lent = self._up(self.encode(z, condition), condition, None, wanted[:-1], last)
        return {**lent, last: self._attention(last).enter(state.h, condition.impl)[1]}

    def _order(self) -> list[Layer]:
        positions = range(self.config.layers_per_block + 1)
        return [Layer(level, position) for level in reversed(range(self.config.levels)) for position in positions]

    def _block(self, level: int) -> UpBlock:
        return cast(UpBlock, self.up_blocks[self.config.levels - 1 - level])

    def _attention(self, layer: Layer) -> SpatialTransformer:
        return cast(SpatialTransformer, self._block(layer.level).attentions[layer.position])

    def _out(self, state: State, condition: Conditioning) -> Tensor:
        return self.conv_out(normalise(self.conv_norm_out, state.h, silu=True, impl=condition.impl))

    def _up(
        self,
        state: State,
        condition: Conditioning,
        source: KVSource | None,
        wanted: Container[Layer],
        until: Layer | None,
    ) -> tuple[State, dict[Layer, Tensor]]:
        """Run the decoder to the attention of ``until`` or, for None, to the end; note what ``wanted`` layers lend."""
        h, skips = state.h, list(state.skips)
        lent: dict[Layer, Tensor] = {}
        order = self._order()
        for layer in order if state.before is None else order[order.index(state.before) :]:
            block = self._block(layer.level)
            if layer != state.before:
                if condition.free_u is not None and layer.position == 0:
                    h = condition.free_u.apply(h, self.config.levels - 1 - layer.level)
                h = _run(block.resnets[layer.position], torch.cat([h, skips.pop()], dim=1), condition)
            if layer == until:
                break
            if block.attentions:
                attention = self._attention(layer)
                entered = attention.enter(h, condition.impl)
                if layer in wanted:
                    lent[layer] = entered[1]
                borrowed = None if source is None else source.at(layer)
                h = attention.finish(h, entered, condition.text[attention], borrowed, condition.impl)
            if layer.position == self.config.layers_per_block:
                for upsample in block.upsamplers:
                    h = upsample(h)
        return replace(state, h=h, skips=tuple(skips), before=until), lent


def _run(resnet: nn.Module, h: Tensor, condition: Conditioning) -> Tensor:
    return resnet(h, condition.time_shifts[resnet], condition.impl)


def _attend(attention: nn.Module, h: Tensor, condition: Conditioning) -> Tensor:
    layer = cast(SpatialTransformer, attention)
    return layer.finish(h, layer.enter(h, condition.impl), condition.text[layer], None, condition.impl)


def _resnet(config: UNetConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    time_embed_dim = 4 * config.block_out_channels[0]
    return ResnetBlock(
        in_channels, out_channels, groups=config.groups, eps=config.resnet_eps, time_embed_dim=time_embed_dim
    )


def _transformer(config: UNetConfig, width: int) -> SpatialTransformer:
    return SpatialTransformer(
        width,
        num_heads=config.num_heads,
        cross_attention_dim=config.cross_attention_dim,
        groups=config.groups,
        group_norm_eps=config.transformer_group_norm_eps,
        eps=config.layer_norm_eps,
    )
