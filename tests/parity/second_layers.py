"""Layers of diffusers' UNet as the second implementation has them: attention that records and swaps, and FreeU."""

from __future__ import annotations

import math

import torch


class SwitchboardProcessor:
    """Attention processor of diffusers for one self-attention layer of the decoder.

    ``mode`` is "plain", "record" (keep keys and values) or "swap" (use all kept, with contrast; restricted to a class
    or matched to the values' statistics where ``within_class`` and ``match`` say so, with ``labels`` of both).
    """

    def __init__(self, level):
        self.level = level
        self.mode = "plain"
        self.kept = []
        self.contrast = 1.0
        self.within_class = self.match = False
        self.labels = None
        self.watched = False
        self.map = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        def heads(x):
            return x.reshape(x.shape[0], x.shape[1], attn.heads, -1).transpose(1, 2)

        q, k, v = (heads(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        if self.mode == "record":
            self.kept.append((k, v))
        contrast = 1.0
        if self.mode == "swap":
            k, v = (torch.cat(each, dim=2) for each in zip(*self.kept, strict=True))
            contrast = self.contrast
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        n = torch.full((q.shape[-2], 1), k.shape[-2], dtype=q.dtype)
        if self.mode == "swap" and self.within_class:
            same = self.labels[0][:, None] == self.labels[1][None, :]
            same[~same.any(dim=1)] = True
            scores = scores.masked_fill(~same, -torch.inf)
            n = same.sum(dim=1, keepdim=True).to(q.dtype)
        p = torch.softmax(scores, dim=-1)
        if self.watched and self.mode == "plain":
            self.map = p[0].mean(0)
        if contrast != 1.0:
            changed = torch.clip(contrast * (p - 1 / n) + 1 / n, 0, 1)
            p = torch.where(scores == -torch.inf, 0.0, changed)
        out = p @ v
        if self.mode == "swap" and self.match:
            out = self.matched(out, v)
        out = out.transpose(1, 2).flatten(2)
        return attn.to_out[0](out)

    def matched(self, out, v):
        result = out.clone()
        for label in self.labels[0].unique():
            mine, theirs = out[:, :, self.labels[0] == label], v[:, :, self.labels[1] == label]
            if mine.shape[2] < 2 or theirs.shape[2] < 2:
                continue
            normed = (mine - mine.mean(2, keepdim=True)) / torch.sqrt(mine.var(2, keepdim=True) + 1e-5)
            spread = torch.sqrt(theirs.var(2, keepdim=True) + 1e-5)
            result[:, :, self.labels[0] == label] = normed * spread + theirs.mean(2, keepdim=True)
        return result


class TextProcessor:
    """Attention processor of diffusers for one text attention, which keeps its map."""

    def __init__(self):
        self.map = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        def heads(x):
            return x.reshape(x.shape[0], x.shape[1], attn.heads, -1).transpose(1, 2)

        q, k, v = (
            heads(layer(x))
            for layer, x in zip(
                (attn.to_q, attn.to_k, attn.to_v), (hidden_states, *[encoder_hidden_states] * 2), strict=True
            )
        )
        p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        self.map = p[0].mean(0)
        return attn.to_out[0]((p @ v).transpose(1, 2).flatten(2))


class PublicFreeU(torch.nn.Module):
    """An up block behind the public code's FreeU on the features that enter it."""

    def __init__(self, block, number):
        super().__init__()
        self.block = block
        self.backbone, self.low = (1.4, 0.2) if number == 3 else (1.2, 0.9)
        self.resnets = block.resnets
        self.has_cross_attention = getattr(block, "has_cross_attention", False)

    def forward(self, hidden_states, **rest):
        x = hidden_states.clone()
        x[:, : x.shape[1] // 2] *= self.backbone
        spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
        mask = torch.ones(x.shape[-2:], dtype=x.dtype)
        rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
        mask[max(rows - 1, 0) : rows + 1, max(columns - 1, 0) : columns + 1] = self.low
        x = torch.fft.ifft2(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1))).real
        return self.block(hidden_states=x, **rest)
