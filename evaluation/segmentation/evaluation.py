"""How well a model's predictions fit annotators' label maps, and these each other, field of view by field of view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.samples import Sample, load_image, load_labels
from evaluation.segmentation.leakage import Known, known, leaks
from evaluation.segmentation.metrics import FieldScore, agreement
from evaluation.segmentation.network import build, fill, in_channels_last, read_weights
from evaluation.segmentation.record import Record, read_record
from evaluation.segmentation.windows import predict
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError, brief
from imaging.labels import check_same_size
from imaging.rawfile import shown

__all__ = [
    "FieldScore",
    "Model",
    "Predicted",
    "check_classes",
    "check_independent",
    "evaluate",
    "load_model",
    "mutual",
    "predictions",
]


@dataclass(frozen=True)
class Predicted:
    """A field of view with a model's prediction, and how it fits each annotator's map; all [H, W] or [H, W, 3]."""

    sample: Sample
    image: NDArray[np.uint8]
    annotations: tuple[NDArray[np.int64], ...]
    labels: NDArray[np.int64]
    scores: tuple[FieldScore, ...]


@dataclass(frozen=True)
class Model:
    """A network with what it says of itself."""

    network: torch.nn.Module
    record: Record


def load_model(model_file: Path, device: str) -> Model:
    """The model of a finished training: its folder, or its weights with ``training.json`` beside them.

    Raises:
        InputError: there is none, or it is damaged.
    """
    record = read_record(model_file)
    weights = read_weights(record.file)
    network = build(record.encoder, None, len(record.classes), seed=0)
    fill(network, weights, record.file)
    return Model(in_channels_last(network.to(device)).eval().requires_grad_(False), record)


def evaluate(
    model_file: Path,
    samples: Sequence[Sample],
    classes: ClassMap,
    device: str = "cpu",
    *,
    overlap: float = 0.5,
    batch_size: int = 8,
    independent: bool = True,
) -> list[FieldScore]:
    """Of every field, annotator and class how well the model's prediction fits.

    ``independent`` False lets a model be run on what it knows, as when images are filtered by it; that is no test.

    Raises:
        InputError: the model cannot be read, or has other classes.
        ProblemsError: the model was trained on, or chosen by, what it is judged on; or files cannot be read.
    """
    model = load_model(model_file, device)
    if independent:
        check_independent(model.record, [known(each) for each in samples], str(model_file))
    predicted = predictions(model, samples, classes, overlap=overlap, batch_size=batch_size)
    return [score for each in predicted for score in each.scores]


def check_independent(record: Record, judged: Sequence[Known], where: str) -> None:
    """Raise ProblemsError if anything that a model is judged on is known to it: every such slide, patient and image."""
    problems = leaks(record.training, judged, "test", targets=True)
    for line in leaks(record.held_out, judged, "test"):
        problems.append(line.replace("is trained on", "chose the model"))
    if problems:
        raise ProblemsError(where, problems)


def predictions(
    model: Model, samples: Sequence[Sample], classes: ClassMap, *, overlap: float = 0.5, batch_size: int = 8
) -> Iterator[Predicted]:
    """Each field with its prediction. Labels are ``classes``, which has the model's classes in the model's order.

    Raises:
        InputError: the classes are others, or a file cannot be read.
    """
    record = model.record
    check_classes(record, classes)
    for sample in samples:
        image, annotations = _field(sample, classes)
        found = predict(model.network, image, len(classes), record.size, overlap=overlap, batch_size=batch_size)
        scores = [
            score
            for (annotator, _), labels in zip(sample.masks, annotations, strict=True)
            for score in _scores(sample, annotator, labels, found, classes)
        ]
        yield Predicted(sample, image, annotations, found, tuple(scores))


def check_classes(record: Record, classes: ClassMap) -> None:
    """Raise InputError unless the label maps have the classes that the model knows, in their order."""
    if record.classes.names != classes.names:
        mine, theirs = (brief(", ".join(each.names), 100) for each in (record.classes, classes))
        raise InputError(
            f"{shown(record.file)}: knows the classes {mine}, and the label maps have {theirs}; name them alike, "
            "in one order, with `classes`"
        )


def mutual(samples: Sequence[Sample], classes: ClassMap) -> list[FieldScore]:
    """How well the annotators agree with each other: each pair of them once, in every field. Raises InputError."""
    result = []
    for sample in samples:
        labels = [load_labels(sample, classes, name) for name, _ in sample.masks]
        for one, other in combinations(range(len(labels)), 2):
            first, second = sample.masks[one], sample.masks[other]
            if labels[one].shape != labels[other].shape:
                raise InputError(f"{shown(second[1])}: of another size than {shown(first[1])}; both are of one image")
            result += _scores(sample, first[0], labels[one], labels[other], classes, second[0])
    return result


def _field(sample: Sample, classes: ClassMap) -> tuple[NDArray[np.uint8], tuple[NDArray[np.int64], ...]]:
    image = load_image(sample)
    annotations = []
    for name, path in sample.masks:
        annotations.append(load_labels(sample, classes, name))
        check_same_size(annotations[-1], path, image, sample.image)
    return image, tuple(annotations)


def _scores(
    sample: Sample,
    annotator: str,
    truth: NDArray[np.int64],
    other: NDArray[np.int64],
    classes: ClassMap,
    against: str = "",
) -> list[FieldScore]:
    found = agreement(truth, other, len(classes))
    return [
        FieldScore(sample.name, sample.group, annotator, name, each.dice, each.iou, each.pixels, against)
        for name, each in zip(classes.names, found, strict=True)
    ]
