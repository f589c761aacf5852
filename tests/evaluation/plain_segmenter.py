"""A segmentation model of numpy alone that learns in milliseconds: what experiments are tried with where it is not the
model that is tried. It has the real one's interface, goes on where it was killed, and tells what it was given."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.experiment.segmenter import FieldDice, Trained
from evaluation.samples import Sample, load_image, load_labels, load_trusted
from imaging.classes import ClassMap


@dataclass
class Plain:
    """Softmax regression on colours, by gradient steps over the images in turn."""

    trained: list[dict[str, Any]] = field(default_factory=list)

    def train(
        self,
        real: Sequence[Sample],
        synthetic: Sequence[Sample],
        validation: Sequence[Sample],
        classes: ClassMap,
        options: Mapping[str, Any],
        folder: Path,
    ) -> Generator[Any, None, Trained]:
        """As `evaluation.experiment.segmenter.Segmenter`."""
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(options["seed"])
        pairs = [_pixels(each, classes) for each in (*real, *synthetic)]
        weights = 0.01 * rng.standard_normal((4, len(classes)))
        for _ in range(options["steps"]):
            x, y = pairs[int(rng.integers(len(pairs)))]
            some = rng.integers(len(y), size=256)
            weights -= options["learning_rate"] * _gradient(weights, x[some], y[some])
            yield None
        model = folder / "model.json"
        model.write_text(json.dumps(weights.tolist()))
        self.trained.append(
            {"real": [*real], "synthetic": [*synthetic], "validation": [*validation], "options": dict(options)}
        )
        rows = self.judge(model, validation, classes, options)
        dice = [each.dice for each in rows if each.dice is not None]
        return Trained(model, options["steps"], float(np.mean(dice)))

    def judge(
        self, model: Path, samples: Sequence[Sample], classes: ClassMap, options: Mapping[str, Any]
    ) -> Iterator[FieldDice]:
        """As `evaluation.experiment.segmenter.Segmenter`."""
        weights = np.array(json.loads(model.read_text()))
        for each in samples:
            predicted = (_features(load_image(each)) @ weights).argmax(axis=-1)
            for annotator, _ in each.masks:
                labels = load_labels(each, classes, annotator)
                for c, name in enumerate(classes.names):
                    one, other = (predicted == c) & (labels < len(classes)), labels == c
                    total = int(one.sum() + other.sum())
                    dice = None if total == 0 else 2 * float((one & other).sum()) / total
                    yield FieldDice(each.name, each.group, annotator, name, dice)


def _features(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.concatenate([image / 255.0, np.ones((*image.shape[:2], 1))], axis=2)


def _pixels(each: Sample, classes: ClassMap) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    labels = load_trusted(each, classes) if each.synthetic else load_labels(each, classes)
    known = labels < len(classes)
    return _features(load_image(each))[known], labels[known]


def _gradient(weights: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    logits = x @ weights
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1.0
    return x.T @ p / len(y)
