"""How far work is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

from sampler.field_denoising import Reached

Phase = Literal["read", "calibrate", "encode", "invert", "denoise", "decode", "train", "judge", "embed", "compare"]
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of a phase are finished, for ``images`` images at once.

    At the end of each step of a field in windows, ``reached`` is what the task at place ``index`` can go on from later.
    """

    phase: Phase
    done: int
    total: int
    images: int = 1
    index: int = 0
    reached: Reached | None = None


class Ticks:
    """Counts the ticks of one or several pieces of work as one phase, of ``total`` ticks or more."""

    def __init__(self, phase: Phase, total: int, images: int = 1) -> None:
        self._phase, self._total, self._images, self._done = phase, total, images, 0

    def during(self, work: Generator[None, None, T]) -> Generator[Progress, None, T]:
        """`Progress` after each tick of ``work``; returns what it returns."""
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value
            self._done += 1
            yield Progress(self._phase, self._done, max(self._total, self._done), self._images)
