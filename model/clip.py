"""The CLIP text encoder that conditions Stable Diffusion 1.x.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, arXiv 2103.00020:
a pre-norm transformer with causal attention and the sigmoid approximation of GELU. Parameters are named as
in transformers' ``CLIPTextModel``, without its ``text_model.`` prefix.

Shapes: B batch, N tokens, W width, H heads, D head width (W = H·D).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import TextConfig
from model.cpu_layers import Linear


class Embeddings(nn.Module):
    """Sum of a token's and its position's learnt vectors."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = _embedding(config.vocabulary, config.width, std=0.02)
        self.position_embedding = _embedding(config.positions, config.width, std=0.01)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, N] token ids to [B, N, W]."""
        tokens: Tensor = self.token_embedding(ids)
        return tokens + self.position_embedding.weight[: ids.shape[1]]


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and what stands before it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = Linear(config.width, config.width)
        self.k_proj = Linear(config.width, config.width)
        self.v_proj = Linear(config.width, config.width)
        self.out_proj = Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] to [B, N, W]."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, H, N, D]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        merged: Tensor = self.out_proj(out.transpose(1, 2).flatten(-2))  # [B, N, W]
        return merged


class MLP(nn.Module):
    """Two linear layers with ``x · sigmoid(1.702 x)`` between them."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] to [B, N, W]."""
        hidden = self.fc1(x)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return out


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.self_attn = CausalAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] to [B, N, W]."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] to [B, N, W]."""
        for layer in self.layers:
            x = layer(x)
        return x


class TextEncoder(nn.Module):
    """Token ids to one vector a token: the last hidden state after the final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        if config.width % config.num_heads:
            raise ValueError(f"text width {config.width} is not a multiple of {config.num_heads} heads")
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids.

        Args:
            ids: integers in [0, vocabulary), [B, N] with N at most ``config.positions``.

        Returns:
            [B, N, W] in the parameters' dtype.

        Raises:
            ValueError: ``ids`` is not two-dimensional, or N is more than ``config.positions``.
        """
        if ids.ndim != 2 or ids.shape[1] > self.config.positions:
            raise ValueError(f"ids must be [B, N] with N <= {self.config.positions}, not {list(ids.shape)}")
        states: Tensor = self.final_layer_norm(self.encoder(self.embeddings(ids)))
        return states


def _embedding(count: int, width: int, *, std: float) -> nn.Embedding:
    # Drawn uniformly: a normal draw, nn.Embedding's own, makes torch import its compiler (200 MB) on the meta device.
    bound = math.sqrt(3) * std
    weight = torch.empty(count, width).uniform_(-bound, bound)
    embedding: nn.Embedding = nn.Embedding.from_pretrained(weight, freeze=False)  # type: ignore[no-untyped-call]
    return embedding
