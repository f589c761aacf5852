"""Each new image judged by itself: does it fit its label map, is it stained like its origin, is it a copy of it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataset.classifier import PixelClassifier, mean_dice, pixel_features
from dataset.copying import copying
from dataset.stain import STAINS, Field, box_mean, stain_densities

TRUST_MULTIPLE = 3.0
"""A pixel is doubtful where the classifier's loss is above this many times its class's mean on real pixels."""
UNTRUSTED = 255
_BINS = 512
_QUANTILES = np.linspace(0.005, 0.995, 100)


@dataclass(frozen=True)
class Look:
    """An image [H, W, 3] with its stain densities [H, W, 3] and pixel features [H, W, F]."""

    image: NDArray[np.uint8]
    stains: Field
    features: Field

    @staticmethod
    def of(image: NDArray[np.uint8]) -> Look:
        """Of an image [H, W, 3]."""
        stains = stain_densities(image)
        return Look(image, stains, pixel_features(stains))


@dataclass(frozen=True)
class OriginModel:
    """What is known of an origin, once for all images made from it."""

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    num_classes: int
    stains: Field
    classifier: PixelClassifier

    @staticmethod
    def of(image: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int) -> OriginModel:
        """Of an origin's image [H, W, 3] and labels [H, W]."""
        look = Look.of(image)
        return OriginModel(
            image, labels, num_classes, look.stains, PixelClassifier.fit(look.features, labels, num_classes)
        )


@dataclass(frozen=True)
class Quality:
    """Of one image. What is good and what is bad is for a calibration on real pairs to say.

    ``fidelity``: Dice's coefficient, mean over the classes of target and origin, of the target map and what a pixel
    classifier fitted on the origin sees in the image; ``origin_fidelity`` the same on the origin, which bounds it.
    ``separation``: for each class, the area under the ROC curve of the stain that tells it best from the others in the
    origin, along the target map, in the same direction; the mean, 0.5 is none. ``stain_distance``: mean over classes
    and stains of the Wasserstein distance of optical densities to those of the origin's class;
    ``class_stain_distances`` the mean over stains for each class, None where either lacks it. ``copying`` as
    `dataset.copying`.
    """

    fidelity: float
    origin_fidelity: float
    separation: float
    stain_distance: float
    class_stain_distances: tuple[float | None, ...]
    copying: float


def judge(origin: OriginModel, new: Look, target: NDArray[np.int64]) -> Quality:
    """Judge a ``new`` image of ``target`` labels [H', W'], made from ``origin``."""
    classifier = origin.classifier
    fidelity = mean_dice(classifier.predict(new.features), target, classifier.classes)
    distances = [_stain_distance(origin, new.stains, target, c) for c in range(origin.num_classes)]
    known = [each for each in distances if each is not None]
    return Quality(
        round(fidelity, 4),
        round(classifier.dice, 4),
        round(_separation(origin, new.stains, target), 4),
        round(float(np.mean(known)), 4) if known else 0.0,
        tuple(None if each is None else round(each, 4) for each in distances),
        round(copying(new.image, origin.image), 4),
    )


def trusted(
    origin: OriginModel, variants: Sequence[Look], target: NDArray[np.int64], cell: int
) -> list[NDArray[np.uint8]]:
    """For each of the ``variants`` of one ``target`` [H', W'], its labels, `UNTRUSTED` where doubtful, uint8 [H', W'].

    Doubtful are ignored pixels; those within half a latent ``cell`` (in pixels) of another label, a band of one cell
    along borders; those whose loss under the origin's classifier is above `TRUST_MULTIPLE` times its class's mean on
    the origin (the rule of FreeMask, Yang et al., arXiv 2310.15160); and those where it sees different classes in
    several ``variants``.
    """
    classifier = origin.classifier
    band = _near_borders(target, cell // 2)
    predicted = [classifier.predict(each.features) for each in variants]
    disputed = np.any([each != predicted[0] for each in predicted], axis=0)
    allowed = np.zeros(target.shape)
    for index, c in enumerate(classifier.classes):
        allowed[target == c] = TRUST_MULTIPLE * classifier.mean_loss[index]
    result = []
    for each in variants:
        doubtful = band | disputed | (target >= origin.num_classes) | (classifier.loss(each.features, target) > allowed)
        result.append(np.where(doubtful, UNTRUSTED, target).astype(np.uint8))
    return result


def _near_borders(labels: NDArray[np.int64], radius: int) -> NDArray[np.bool_]:
    near = np.zeros(labels.shape, dtype=bool)
    for c in np.unique(labels):
        share = box_mean((labels == c).astype(np.float32), radius)
        near |= (share > 1e-6) & (share < 1 - 1e-6)
    return near


def _stain_distance(origin: OriginModel, stains: Field, target: NDArray[np.int64], c: int) -> float | None:
    real, new = origin.stains[origin.labels == c], stains[target == c]
    if not len(real) or not len(new):
        return None
    # One-dimensional Wasserstein distance: the mean difference of quantiles.
    one, other = (np.quantile(each[:, : len(STAINS)], _QUANTILES, axis=0) for each in (real, new))
    return float(np.abs(one - other).mean())


def _separation(origin: OriginModel, stains: Field, target: NDArray[np.int64]) -> float:
    values = []
    for c in range(origin.num_classes):
        inside = target == c
        others = (target < origin.num_classes) & ~inside
        real, rest = origin.labels == c, (origin.labels < origin.num_classes) & (origin.labels != c)
        if not (inside.any() and others.any() and real.any() and rest.any()):
            continue
        areas = [_area(origin.stains[real][:, s], origin.stains[rest][:, s]) for s in range(len(STAINS))]
        best = int(np.argmax([abs(area - 0.5) for area in areas]))
        area = _area(stains[inside][:, best], stains[others][:, best])
        values.append(area if areas[best] >= 0.5 else 1.0 - area)
    return float(np.mean(values)) if values else 0.5


def _area(inside: Field, outside: Field) -> float:
    """The chance that a pixel of ``inside`` has more than one of ``outside``; half of ties."""
    low, high = min(inside.min(), outside.min()), max(inside.max(), outside.max())
    if high <= low:
        return 0.5
    one, other = (np.histogram(each, _BINS, (low, high))[0] / len(each) for each in (inside, outside))
    below = np.cumsum(other) - other
    return float((one * (below + 0.5 * other)).sum())
