"""The UNet's transformer: attention to the image itself, to another image or to the text, and a feed-forward layer.

Parameter names are those of the published diffusers checkpoints, so that weights need no renaming.

Notation: B batch, C channels, H×W latent grid, N = H·W tokens, M text tokens, h heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from kernels import Implementation, adain_features, cross_image_attention, geglu
from kernels.cross_image_attention.torch import plain
from kernels.onednn import is_supported, linear
from kernels.threads import threads_for
from model.cpu_layers import Conv2d, Linear
from model.layers import normalise

CPU_ROWS = 1024
"""Tokens that go through a feed-forward layer at once on a CPU."""


class KeyValue(NamedTuple):
    """Keys and values of one self-attention layer, each [B, h, N, D]."""

    key: Tensor
    value: Tensor


class Tokens(NamedTuple):
    """A layer's tokens [B, N, C], plain and after the first norm; the latter are what other images may look at."""

    plain: Tensor
    normed: Tensor


@dataclass(frozen=True)
class Classes:
    """Classes 0..num_classes-1 of a layer's queries [B, N] and of another image's keys [B, N'], int64.

    With ``within_class`` queries attend to keys of their own class alone; with ``class_adain`` the output takes, class
    by class, the statistics of that image's values (`kernels.adain_features`).
    """

    query: Tensor
    key: Tensor
    num_classes: int
    within_class: bool
    class_adain: bool

    def attend(self, q: Tensor, k: Tensor, v: Tensor, contrast: float, impl: Implementation) -> Tensor:
        """Queries [B, h, N, D] to keys and values [B, h, N', D] -> output [B, h, N, D]."""
        result = cross_image_attention(
            q,
            k,
            v,
            contrast=contrast,
            query_labels=self.query,
            key_labels=self.key,
            num_classes=self.num_classes,
            within_class=self.within_class,
            impl=impl,
        )
        return adain_features(result, self.query, impl=impl) if self.class_adain else result.out


@dataclass(frozen=True)
class LayerKVSource:
    """Tokens that a self-attention layer makes its keys and values from, in place of its own (cross-image attention).

    ``tokens`` [B or 1, N', C] are what the same layer was given in another image's pass
    (`SpatialTransformer.to_tokens`); a batch of 1 serves every image. ``contrast`` is beta of step 3 of docs/method.md,
    ``impl`` the implementation asked of ``kernels``; ``classes`` None treats all positions alike.
    """

    tokens: Tensor
    contrast: float
    impl: Implementation
    classes: Classes | None = None


class Attention(nn.Module):
    """Multi-head attention of tokens [B, N, C] to tokens [B, M, C_context], projections without bias."""

    fused: Tensor | None

    def __init__(self, channels: int, cross_attention_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(cross_attention_dim, channels, bias=False)
        self.to_v = Linear(cross_attention_dim, channels, bias=False)
        self.to_out = nn.ModuleList([Linear(channels, channels)])
        self.register_buffer("fused", None, persistent=False)

    def fuse(self) -> None:
        """Lay the three projections' weights together, [3 C, C], so that one product does for all.

        For self-attention alone, once the weights are final; the parameters become views of the whole.
        """
        layers = (self.to_q, self.to_k, self.to_v)
        self.fused = torch.cat([layer.weight.detach() for layer in layers])
        for layer, part in zip(layers, self.fused.chunk(3), strict=True):
            layer.weight = nn.Parameter(part, requires_grad=False)

    def split(self, tokens: Tensor) -> Tensor:
        """[B, N, h·D] -> a view [B, h, N, D]."""
        return rearrange(tokens, "b n (h d) -> b h n d", h=self.num_heads)

    def queries(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, h, N, D]."""
        return self.split(self.to_q(tokens))

    def keys_values(self, context: Tensor) -> KeyValue:
        """Project ``context`` [B, M, C_context] to keys and values [B, h, M, D]."""
        if self.fused is None:
            return KeyValue(self.split(self.to_k(context)), self.split(self.to_v(context)))
        k, v = linear(context, self.fused[self.to_q.out_features :]).chunk(2, dim=-1)
        return KeyValue(self.split(k), self.split(v))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, KeyValue]:
        """Project ``x`` [B, N, C] to its own queries [B, h, N, D], keys and values."""
        if self.fused is None:
            return self.split(self.to_q(x)), self.keys_values(x)
        q, k, v = (self.split(part) for part in linear(x, self.fused).chunk(3, dim=-1))
        return q, KeyValue(k, v)

    def forward(self, x: Tensor, source: KeyValue | LayerKVSource | None) -> Tensor:
        """Attend from ``x`` [B, N, C] to ``source``, whose batch may be 1; None means to ``x`` itself."""
        if source is None:
            q, (k, v) = self.queries_keys_values(x)
            out = plain(q, k, v)
        elif isinstance(source, LayerKVSource):
            q = self.queries(x)
            k, v = (t.expand(x.shape[0], -1, -1, -1) for t in self.keys_values(source.tokens))
            if source.classes is None:
                out = cross_image_attention(q, k, v, contrast=source.contrast, impl=source.impl)
            else:
                out = source.classes.attend(q, k, v, source.contrast, source.impl)
        else:
            k, v = (t.expand(x.shape[0], -1, -1, -1) for t in source)
            out = F.scaled_dot_product_attention(self.queries(x), k, v)
        return self.to_out[0](rearrange(out, "b h n d -> b n (h d)"))


class GEGLU(nn.Module):
    """Linear layer to twice the width, one half gated by the exact GELU of the other (Shazeer, 2002.05202)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = Linear(channels, 2 * hidden)

    def forward(self, x: Tensor, impl: Implementation) -> Tensor:
        if impl == "torch" and is_supported(x, self.proj.weight, self.proj.bias):
            (value, gate), biases = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
            return linear(x, value, biases[0]).mul_(linear(x, gate, biases[1], "gelu"))
        return geglu(self.proj(x), impl=impl)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back. The middle entry of ``net`` only keeps the published numbering."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), Linear(4 * channels, channels)])

    def forward(self, x: Tensor, impl: Implementation) -> Tensor:
        if x.device.type != "cpu":
            return self.net[2](self.net[0](x, impl))
        # What lies between is four times as wide: on a CPU it should not leave the cache.
        tokens = x.flatten(0, 1)
        blocks = [tokens[first : first + CPU_ROWS] for first in range(0, len(tokens), CPU_ROWS)]
        return torch.cat([self.net[2](self.net[0](block, impl)) for block in blocks]).view_as(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each behind a LayerNorm and a residual."""

    def __init__(self, channels: int, *, num_heads: int, cross_attention_dim: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attn1 = Attention(channels, channels, num_heads)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.attn2 = Attention(channels, cross_attention_dim, num_heads)
        self.norm3 = nn.LayerNorm(channels, eps=eps)
        self.ff = FeedForward(channels)

    def forward(self, tokens: Tokens, text: KeyValue, kv_source: LayerKVSource | None, impl: Implementation) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C]."""
        x = tokens.plain + self.attn1(tokens.normed, kv_source)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x), impl)


class SpatialTransformer(nn.Module):
    """A transformer block over the grid's positions (LDM, section 3.3), in two parts."""

    def __init__(
        self, channels: int, *, num_heads: int, cross_attention_dim: int, groups: int, group_norm_eps: float, eps: float
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=group_norm_eps)
        self.proj_in = Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, num_heads=num_heads, cross_attention_dim=cross_attention_dim, eps=eps)]
        )
        self.proj_out = Conv2d(channels, channels, 1)

    @property
    def block(self) -> TransformerBlock:
        """The one block that there is in SD-1.x."""
        return cast(TransformerBlock, self.transformer_blocks[0])

    def text(self, context: Tensor) -> KeyValue:
        """Keys and values [B, h, 77, D] of the text states [B, 77, W]: the same in every call with that text."""
        return self.block.attn2.keys_values(context)

    def forward(self, x: Tensor, text: KeyValue, kv_source: LayerKVSource | None, impl: Implementation) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W], with the keys and values of a ``text`` and, for None, of the image itself."""
        return self.attend(x, self.to_tokens(x, impl), text, kv_source, impl)

    def to_tokens(self, x: Tensor, impl: Implementation) -> Tokens:
        """The layer's tokens of ``x`` [B, C, H, W]."""
        with threads_for(self._operations(x), x):
            grid = self.proj_in(normalise(self.norm, x, silu=False, impl=impl))
            tokens = rearrange(grid, "b c h w -> b (h w) c")
            return Tokens(tokens, self.block.norm1(tokens))

    def text_tokens(self, tokens: Tokens, kv_source: LayerKVSource | None) -> Tensor:
        """What attention to the text makes its queries from, [B, N, C]. Computes the self-attention once more."""
        return self.block.norm2(tokens.plain + self.block.attn1(tokens.normed, kv_source))

    def attend(
        self, x: Tensor, tokens: Tokens, text: KeyValue, kv_source: LayerKVSource | None, impl: Implementation
    ) -> Tensor:
        """The layer's output [B, C, H, W] for its input ``x`` and what `to_tokens` made of it."""
        with threads_for(self._operations(x), x):
            attended = self.block(tokens, text, kv_source, impl)
            grid = rearrange(attended, "b (h w) c -> b c h w", h=x.shape[-2], w=x.shape[-1])
            return x + self.proj_out(grid)

    def _operations(self, x: Tensor) -> int:
        """Of the whole layer: twenty products of C columns for each token, and attention to all N of them."""
        batch, channels, height, width = x.shape
        count = height * width
        return 2 * batch * count * channels * (20 * channels + 2 * count)
