"""Which image each window of a training comes from: a pure function of the seed and the window's number.

So a training that goes on after an interruption, or in several processes, draws what it would have drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imaging.errors import InputError

REAL, SYNTHETIC = 0, 1


@dataclass(frozen=True)
class Mixture:
    """``real`` and ``synthetic`` images, of which the share ``real_share`` of the windows is real, at every moment.

    Of each kind all images come in a random order, then all in another. None: as many real windows as there are real
    images among all, so that all images come equally often.

    Raises:
        InputError: a kind is wanted of which there are no images.
    """

    real: int
    synthetic: int
    real_share: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.real + self.synthetic == 0:
            raise InputError("there are no images to train on; give some")
        if self.share > 0 and not self.real:
            raise InputError(f"`real_share` {self.share:g}: there are no real images; give some, or 0")
        if self.share < 1 and not self.synthetic:
            raise InputError(f"`real_share` {self.share:g}: there are no in-silico images; give some, or leave it out")

    @property
    def share(self) -> float:
        """Of real windows among all."""
        return self.real / (self.real + self.synthetic) if self.real_share is None else self.real_share

    def draw(self, number: int) -> tuple[int, int]:
        """`REAL` or `SYNTHETIC`, and the place of the image among its kind, of window ``number`` from 0."""
        before = math.floor(number * self.share)
        if math.floor((number + 1) * self.share) > before:
            return REAL, self._place(REAL, before, self.real)
        return SYNTHETIC, self._place(SYNTHETIC, number - before, self.synthetic)

    def _place(self, kind: int, number: int, count: int) -> int:
        order = np.random.default_rng((self.seed, kind, number // count)).permutation(count)
        return int(order[number % count])
