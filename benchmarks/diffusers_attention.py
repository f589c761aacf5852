"""diffusers' attention processor with cross-image attention, as a user of diffusers writes one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

# Places of the three images in a batch.
OUTPUT, ORIGIN, STRUCTURE = 0, 1, 2


@dataclass
class Swap:
    """What the present UNet call swaps: at decoder ``levels`` the output's keys and values become the ``lender``'s."""

    levels: tuple[int, ...] = ()
    lender: int = ORIGIN
    contrast: float = 1.0


class SwappingProcessor:
    """diffusers' attention processor for one layer; ``level`` None for all but the decoder's self-attention."""

    def __init__(self, level: int | None, swap: Swap, *, optimised: bool) -> None:
        self.level, self.swap, self.optimised = level, swap, optimised

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, N, C] -> [B, N, C]; with a swap B is 3."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B, H, N, D]
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        contrast = 1.0
        if self.level in self.swap.levels:
            contrast = self.swap.contrast
            for x in (k, v):
                x[OUTPUT] = x[self.swap.lender]
        if not self.optimised:
            out = materialised(q, k, v, contrast)
        elif contrast == 1.0:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            # No library kernel transforms probabilities, so the one image that needs it keeps its map.
            contrasted = materialised(q[:1], k[:1], v[:1], contrast)
            out = torch.cat([contrasted, F.scaled_dot_product_attention(q[1:], k[1:], v[1:])])
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def materialised(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """Attention with the map [B, H, N, N] held, contrasted for the first image of the batch."""
    p = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
    if contrast != 1.0:
        uniform = 1.0 / k.shape[-2]
        p[OUTPUT].sub_(uniform).mul_(contrast).add_(uniform).clamp_(0.0, 1.0)
    return p @ v
