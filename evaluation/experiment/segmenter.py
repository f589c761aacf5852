"""What an experiment wants of a segmentation model, and the one that `segmentation train` trains."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evaluation.samples import Sample
from imaging.classes import ClassMap


@dataclass(frozen=True)
class Trained:
    """A training's result: the model's file, the steps it took, its best Dice on the validation images."""

    model: Path
    steps: int
    validation: float


@dataclass(frozen=True)
class Stepped:
    """``done`` of ``total`` optimiser steps are taken."""

    done: int
    total: int


@dataclass(frozen=True)
class FieldDice:
    """Dice's coefficient of one class of one image against one annotator; None where neither has the class."""

    sample: str
    group: str
    annotator: str
    label: str
    dice: float | None


class Segmenter(Protocol):
    """Trains models and judges them. ``options`` are JSON and decide the result, beside the images and the seed."""

    def train(
        self,
        real: Sequence[Sample],
        synthetic: Sequence[Sample],
        validation: Sequence[Sample],
        classes: ClassMap,
        options: Mapping[str, Any],
        folder: Path,
    ) -> Generator[Stepped | None, None, Trained]:
        """Train in ``folder``, going on where it ended; yields every now and then. Raises InputError."""
        ...

    def judge(
        self, model: Path, samples: Sequence[Sample], classes: ClassMap, options: Mapping[str, Any]
    ) -> Iterator[FieldDice]:
        """Judge a model on every class, image and annotator. Raises InputError."""
        ...
