"""The UNet's blocks, and how their self-attention is told to look at another image (cross-image attention).

Notation: B batch, C channels, H×W grid of a level, N = H·W tokens, h heads, D head width. Level 0 is the latent
resolution, level 1 half of it, and so on. Parameter names are those of the published diffusers checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kernels import Implementation
from model.config import UNetConfig
from model.layers import Downsample, ResnetBlock, Upsample
from model.transformer import Classes, KeyValue, LayerKVSource, SpatialTransformer


class Layer(NamedTuple):
    """A self-attention layer of the decoder, number ``position`` of those at ``level``.

    With ``text`` it is the attention to the text that follows.
    """

    level: int
    position: int
    text: bool = False


Wanted = int | Layer
"""What is captured: all self-attention layers of a level, or one layer."""


AttentionFeatures = Mapping[Layer, Tensor]
"""The tokens [B, N, C] that self-attention layers of the decoder make their queries, keys and values from.

Of attention to the text, those that it makes its queries from.
"""


@dataclass(frozen=True)
class KVSource:
    """Where decoder layers take keys and values from: each layer in ``features`` makes them from the tokens given
    there.

    ``contrast`` is beta of step 3 of docs/method.md and ``impl`` the attention's implementation, both for these layers;
    ``classes`` are those of queries and keys by level, where attention is to know them.
    """

    features: AttentionFeatures
    contrast: float
    impl: Implementation
    classes: Mapping[int, Classes] = field(default_factory=dict)

    def at(self, layer: Layer) -> LayerKVSource | None:
        """What ``layer`` takes, or None if it attends to its own image."""
        tokens = self.features.get(layer)
        if tokens is None:
            return None
        return LayerKVSource(tokens, self.contrast, self.impl, self.classes.get(layer.level))


class Capture:
    """Collects the features of ``layers`` as a pass comes by them; with ``stop`` the pass ends when it has them all."""

    def __init__(self, layers: Sequence[Layer], *, stop: bool = False) -> None:
        self.features: dict[Layer, Tensor] = {}
        self._layers, self._stop = layers, stop

    def see(self, layer: Layer, tokens: Tensor) -> None:
        """Take ``tokens`` [B, N, C] if they are wanted."""
        if self.wants(layer):
            self.features[layer] = tokens

    def wants(self, layer: Layer) -> bool:
        """Whether ``layer`` is among those captured."""
        return layer in self._layers

    @property
    def finished(self) -> bool:
        """Whether nothing that is still to come is wanted."""
        return self._stop and len(self.features) == len(self._layers)


@dataclass(frozen=True)
class BlockConditioning:
    """What one block needs besides features, one entry a layer: no latents enter it.

    ``text`` holds each transformer's keys and values of the text, [B or 1, h, 77, D]; ``time_shifts`` each resnet's,
    [rows, C, 1, 1] with one row for all images or one for each.
    """

    text: Sequence[KeyValue]
    time_shifts: Sequence[Tensor]

    def with_time_shifts(self, time_shifts: Sequence[Tensor]) -> BlockConditioning:
        """The same under other time shifts."""
        return replace(self, time_shifts=time_shifts)


class Block(nn.Module):
    """Resnets and, where the level has attention, a transformer for each."""

    def __init__(self, config: UNetConfig, channels_in: Sequence[int], level: int, *, transformers: int) -> None:
        super().__init__()
        channels = config.block_out_channels[level]
        self.resnets = nn.ModuleList(
            ResnetBlock(
                count,
                channels,
                groups=config.groups,
                eps=config.resnet_eps,
                time_embed_dim=4 * config.block_out_channels[0],
            )
            for count in channels_in
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(
                channels,
                num_heads=config.num_heads,
                cross_attention_dim=config.cross_attention_dim,
                groups=config.groups,
                group_norm_eps=config.transformer_group_norm_eps,
                eps=config.layer_norm_eps,
            )
            for _ in range(transformers)
        )

    def condition(self, context: Tensor, time: Tensor) -> BlockConditioning:
        """From text states [B or 1, 77, cross_attention_dim] and time embeddings [rows, time_embed_dim]."""
        text = [cast(SpatialTransformer, attention).text(context) for attention in self.attentions]
        return BlockConditioning(text, [cast(ResnetBlock, resnet).shift(time) for resnet in self.resnets])


class DownBlock(Block):
    """Resnets, each followed by a transformer where the level has attention, then a down-sampling."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        channels = config.block_out_channels[level]
        before = config.block_out_channels[max(level - 1, 0)]
        layers = config.layers_per_block
        transformers = layers if config.attention[level] else 0
        super().__init__(config, [before] + [channels] * (layers - 1), level, transformers=transformers)
        last = level == config.levels - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(channels, asymmetric=False)])

    def forward(self, h: Tensor, cond: BlockConditioning, impl: Implementation) -> list[Tensor]:
        """[B, C_in, H, W] -> the output of each layer in turn, the last being the block's: what skips carry."""
        outputs = []
        for position, resnet in enumerate(self.resnets):
            h = resnet(h, cond.time_shifts[position], impl)
            if self.attentions:
                h = self.attentions[position](h, cond.text[position], None, impl)
            outputs.append(h)
        for downsample in self.downsamplers:
            h = downsample(h)
            outputs.append(h)
        return outputs


class MidBlock(Block):
    """Resnet, transformer, resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, [config.block_out_channels[-1]] * 2, config.levels - 1, transformers=1)

    def forward(self, h: Tensor, cond: BlockConditioning, impl: Implementation) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        h = self.resnets[0](h, cond.time_shifts[0], impl)
        h = self.attentions[0](h, cond.text[0], None, impl)
        return self.resnets[1](h, cond.time_shifts[1], impl)


class UpBlock(Block):
    """Resnets fed with skip connections, each followed by a transformer where the level has attention; up-sampling.

    It runs one pass, or two that look at different images: these are one pass until the first layer that tells them
    apart.
    """

    def __init__(self, config: UNetConfig, level: int) -> None:
        channels = config.block_out_channels[level]
        below = config.block_out_channels[min(level + 1, config.levels - 1)]
        above = config.block_out_channels[max(level - 1, 0)]
        layers = config.layers_per_block
        channels_in = [below + channels] + [2 * channels] * (layers - 1) + [channels + above]
        super().__init__(config, channels_in, level, transformers=layers + 1 if config.attention[level] else 0)
        self.level = level
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(channels)])

    def forward(
        self,
        passes: list[Tensor],
        skips: list[Tensor],
        cond: BlockConditioning,
        kv_sources: Sequence[KVSource | None],
        capture: Capture,
        impl: Implementation,
    ) -> list[Tensor]:
        """``passes`` holds features [B, C_in, H, W] for each of ``kv_sources``, or one that all still share.

        Takes its ``skips`` from the end of the list. Returns the passes' features, [B, C, 2·H, 2·W] after up-sampling;
        none worth anything if `Capture.finished` says so.
        """
        for position, resnet in enumerate(self.resnets):
            skip = skips.pop()
            passes = [resnet(torch.cat([h, skip], dim=1), cond.time_shifts[position], impl) for h in passes]
            if not self.attentions:
                continue
            layer, attention = Layer(self.level, position), cast(SpatialTransformer, self.attentions[position])
            tokens = [attention.to_tokens(h, impl) for h in passes]
            capture.see(layer, tokens[0].normed)
            if capture.finished:
                return passes
            kv = [None if source is None else source.at(layer) for source in kv_sources]
            text = layer._replace(text=True)
            if capture.wants(text):
                capture.see(text, attention.text_tokens(tokens[0], kv[0]))
            if len(passes) < len(kv) and any(each is not None for each in kv):
                # Here the passes part: they have the same queries and look at different images.
                passes, tokens = passes * len(kv), tokens * len(kv)
            for number, own in enumerate(tokens):
                passes[number] = attention.attend(passes[number], own, cond.text[position], kv[number], impl)
        for upsample in self.upsamplers:
            passes = [upsample(h) for h in passes]
        return passes
