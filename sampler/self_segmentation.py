"""The foreground that the ``alaluf`` preset finds by itself (docs/method.md, "Self-segmentation").

Source: the public code of Alaluf et al., arXiv 2311.03335, which follows Patashnik et al., arXiv 2303.11306.
Pure functions on tensors: maps are attention averaged over heads, regions are clusters of their rows, and a region is
foreground where the object's noun is attended to much more than elsewhere.

Notation: N = h·w latent positions, H heads, D head width, k clusters, n nouns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from model.config import UNetConfig
from model.tokenizer import LENGTH, Tokenizer
from model.unet_blocks import Layer
from sampler.errors import SettingError
from sampler.k_means import CLUSTERS, DRAWS, RESTARTS, Rows, k_means
from sampler.settings import Settings

Image = Literal["origin", "structure"]
SEED = 1
HELD_POSITIONS = 4096
"""Up to so many positions (512×512 px) the map of all against all is held; of more, its rows are made anew."""
HELD_BLOCK = 2**18
REMADE_BLOCK = 2**21
"""Entries of the map in work at once: a map that is held leaves less room for them."""
FOREGROUND_SCORE = 1.4
"""By how much a region's score must be above the mean of the others."""


@dataclass(frozen=True)
class Foreground:
    """A foreground that was found: ``mask`` [h, w], bool, with so many ``positions``.

    ``scores`` has for each cluster how much each noun is attended to, from 0 to 1, and nothing for a cluster without
    rows; ``threshold`` is what the score of a foreground cluster is above, None where there is but one cluster.
    """

    mask: Tensor
    positions: int
    scores: tuple[tuple[float, ...], ...]
    threshold: float | None

    @property
    def share(self) -> float:
        """Of all latent positions, 0 to 1."""
        return self.positions / self.mask.numel()

    def without(self, ignored: Tensor) -> Foreground:
        """The same but for the positions ``ignored`` [h, w], which are of no class."""
        mask = self.mask & ~ignored
        return replace(self, mask=mask, positions=int(mask.sum()))


@dataclass(frozen=True)
class FoundMasks:
    """The foregrounds that AdaIN goes by in one pair."""

    origin: Foreground
    structure: Foreground

    @property
    def adain(self) -> Literal["foreground", "global"]:
        """``global`` where a foreground has fewer than 2 positions: there are no statistics of it."""
        return "foreground" if min(self.origin.positions, self.structure.positions) >= 2 else "global"

    def matched(self, image: Image) -> Tensor:
        """The positions [h, w] of one of the two whose statistics AdaIN takes, bool."""
        mask = (self.origin if image == "origin" else self.structure).mask
        return mask if self.adain == "foreground" else torch.ones_like(mask)


@dataclass(frozen=True)
class AttentionMap:
    """``mean_h softmax(q_h k_hᵀ / √D)``, [N, M], of which rows are made when asked for.

    ``q`` is [H, N, D], ``k`` [H, M, D]; computed in ``dtype``.
    """

    q: Tensor
    k: Tensor
    dtype: torch.dtype

    def rows(self, index: Tensor | slice) -> Tensor:
        """The rows [n, M] of ``index``, head by head."""
        total: Tensor | None = None
        for query, key in zip(self.q, self.k, strict=True):
            scaled = query[index].to(self.dtype) / math.sqrt(query.shape[1])
            p = torch.softmax(scaled @ key.to(self.dtype).t(), -1)
            total = p if total is None else total.add_(p)
        assert total is not None
        return total.div_(len(self.q))

    def columns(self, index: Sequence[int]) -> Tensor:
        """The columns [N, n] of ``index``."""
        return torch.cat([self.rows(part)[:, list(index)] for part in self.places(REMADE_BLOCK)])

    @property
    def is_finite(self) -> bool:
        """Whether all it is made of is."""
        return bool(self.q.isfinite().all() & self.k.isfinite().all())

    def places(self, entries: int) -> list[slice]:
        """The rows in blocks of about so many ``entries``."""
        count, step = self.q.shape[1], max(1, entries // self.k.shape[1])
        return [slice(first, min(first + step, count)) for first in range(0, count, step)]


@dataclass(frozen=True)
class Held:
    """`Rows` of a matrix [N, M] that is there."""

    matrix: Tensor

    def take(self, index: Tensor) -> Tensor:
        """As `Rows.take`."""
        return self.matrix[index].double()

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """As `Rows.blocks`."""
        step = max(1, HELD_BLOCK // self.matrix.shape[1])
        for first in range(0, len(self.matrix), step):
            part = slice(first, min(first + step, len(self.matrix)))
            yield part, self.matrix[part].double()


@dataclass(frozen=True)
class Remade:
    """`Rows` of a map too large to hold: each pass over them computes it."""

    attention: AttentionMap

    def take(self, index: Tensor) -> Tensor:
        """As `Rows.take`."""
        return self.attention.rows(index).double()

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """As `Rows.blocks`."""
        for part in self.attention.places(REMADE_BLOCK):
            yield part, self.attention.rows(part).double()


def rows_of(attention: AttentionMap) -> Rows:
    """The rows of ``attention``: held where that takes at most 512×512 px' memory."""
    _, count, _ = attention.q.shape
    if count > HELD_POSITIONS:
        return Remade(attention)
    matrix = torch.empty(count, attention.k.shape[1], dtype=attention.dtype, device=attention.q.device)
    for part in attention.places(HELD_BLOCK):
        matrix[part] = attention.rows(part)
    return Held(matrix)


def map_layers(config: UNetConfig) -> tuple[Layer, Layer]:
    """Where the maps are taken: the last self-attention at level 0, the last attention to the text at level 1."""
    last = config.layers_per_block
    return Layer(0, last), Layer(1, last, text=True)


@cache
def _draws() -> NDArray[np.float64]:
    """[2, R, 13] random numbers in [0, 1): the origin's and the structure's. The same in every run."""
    numbers: NDArray[np.float64] = np.random.RandomState(SEED).random_sample(2 * RESTARTS * DRAWS)
    return numbers.reshape(2, RESTARTS, DRAWS)


def clusters_of(rows: Rows, image: Image) -> Tensor:
    """The cluster of each position, [N] int64, by the random numbers of ``image``."""
    return k_means(rows, _draws()[0 if image == "origin" else 1])


def label(clusters: Tensor, nouns: Tensor, size: tuple[int, int]) -> Foreground:
    """The clusters [N] in which the first noun is looked at much more than in others, as one foreground.

    ``nouns`` [N/4, n] are the attention that each position at half of ``size`` (h, w) pays to each noun.
    """
    height, width = size
    largest = nouns.amax(0)
    # Divided by the maximum, not the range, as in the public code; a noun that nobody looks at scores nothing.
    scaled = torch.where(largest > 0, (nouns - nouns.amin(0)) / largest.where(largest > 0, 1.0), 0.0).double()
    grid = scaled.view(height // 2, width // 2, -1).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten(0, 1)
    members = one_hot(clusters, CLUSTERS).double()  # [N, k]
    counts = members.sum(0)
    means = (members.t() @ grid) / counts.clamp(min=1)[:, None]  # [k, n]
    there = [count > 0 for count in counts.tolist()]
    scores = [tuple(row) if has_rows else () for row, has_rows in zip(means.tolist(), there, strict=True)]
    best = {cluster: max(row) for cluster, row in enumerate(scores) if row}
    top = max(best, key=best.__getitem__)
    others = [score for cluster, score in best.items() if cluster != top]
    threshold = FOREGROUND_SCORE * sum(others) / len(others) if others else None
    # Of nouns that are looked at alike the first wins.
    chosen = [c for c, score in best.items() if threshold is not None and threshold < score == scores[c][0]]
    mask = torch.isin(clusters, torch.tensor(chosen, dtype=torch.int64, device=clusters.device)).view(height, width)
    return Foreground(mask, int(mask.sum()), tuple(scores), threshold)


def noun_positions(tokenizer: Tokenizer, settings: Settings) -> list[int]:
    """Where the nouns of ``settings`` stand among the prompt's 77 tokens: each at its first piece.

    Raises SettingError for a noun that is no word of the prompt, or lies beyond what the text encoder reads, and where
    none is named.
    """
    if not settings.object_nouns:
        raise SettingError("domain", None, "names no object to find: give a word of the prompt")
    field = "domain" if settings.nouns is None else "nouns"
    found = []
    for noun in settings.object_nouns:
        position = tokenizer.position(settings.prompt, noun)
        if position is None:
            reason = f"the word {noun} is not in the prompt, as it is written there; name its object with `nouns`"
            raise SettingError(field, noun, reason)
        if position >= LENGTH - 1:
            reason = f"of the prompt {LENGTH - 2} tokens are read, and this word comes later; shorten it"
            raise SettingError(field, noun, reason)
        found.append(position)
    return found
