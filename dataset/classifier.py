"""A pixel classifier fitted on one real image and its label map: linear discriminants of local stain densities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataset.stain import Field, box_mean

SCALES = (1, 4, 12)
"""Radii in pixels of the squares over which stains are averaged."""
TEXTURE = SCALES[1]
MOST_PIXELS = 40_000
_RIDGE = 1e-4


def pixel_features(stains: Field) -> Field:
    """Stain densities [H, W, 3] -> [H, W, 12]: averaged over `SCALES`, and their local deviation."""
    means = [box_mean(stains, radius) for radius in SCALES]
    squares, mean = box_mean(stains**2, TEXTURE), means[SCALES.index(TEXTURE)]
    return np.concatenate([*means, np.sqrt(np.maximum(squares - mean**2, 0.0))], axis=2)


@dataclass(frozen=True)
class PixelClassifier:
    """Linear discriminants: classes that are Gaussian with one covariance. ``classes`` are those the image has.

    ``weights`` [F, len(classes)] and ``bias`` [len(classes)] give logits; ``mean_loss`` [len(classes)] is the mean of
    -log p on the pixels of each class that it was fitted on, and ``dice`` how well it fits there.
    """

    classes: tuple[int, ...]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean_loss: NDArray[np.float64]
    dice: float

    @staticmethod
    def fit(features: Field, labels: NDArray[np.int64], num_classes: int) -> PixelClassifier:
        """Fit to features [H, W, F] and labels [H, W]; pixels of the label ``num_classes`` and above are left out."""
        known = labels < num_classes
        x, y = features[known].astype(np.float64), labels[known]
        classes = tuple(int(c) for c in np.unique(y))
        step = max(1, len(y) // MOST_PIXELS)
        x, y = x[::step], y[::step]
        means = np.stack([x[y == c].mean(axis=0) if (y == c).any() else x.mean(axis=0) for c in classes])
        shares = np.array([max(1, int((y == c).sum())) for c in classes]) / len(y)
        centred = x - means[np.searchsorted(classes, y)]
        covariance = centred.T @ centred / len(y)
        covariance += _RIDGE * (np.trace(covariance) / len(covariance) + 1e-6) * np.eye(len(covariance))
        weights = np.linalg.solve(covariance, means.T)  # [F, C]
        bias = np.log(shares) - 0.5 * (means * weights.T).sum(axis=1)
        made = PixelClassifier(classes, weights, bias, np.zeros(len(classes)), 0.0)
        loss = made.loss(features, labels)
        mean_loss = np.array([loss[labels == c].mean() for c in classes])
        fitted = mean_dice(made.predict(features), labels, classes)
        return PixelClassifier(classes, weights, bias, mean_loss, fitted)

    def log_probabilities(self, features: Field) -> NDArray[np.float64]:
        """[H, W, F] -> log p [H, W, len(classes)]."""
        logits = features.astype(np.float64) @ self.weights + self.bias
        logits -= logits.max(axis=-1, keepdims=True)
        result: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return result

    def predict(self, features: Field) -> NDArray[np.int64]:
        """[H, W, F] -> the likeliest class of each pixel [H, W]."""
        return np.asarray(self.classes, dtype=np.int64)[self.log_probabilities(features).argmax(axis=-1)]

    def loss(self, features: Field, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """-log p of the ``labels`` [H, W]; infinite for a class that the classifier does not know."""
        log_p = self.log_probabilities(features)
        result = np.full(labels.shape, np.inf)
        for index, c in enumerate(self.classes):
            result[labels == c] = -log_p[labels == c][:, index]
        return result


def mean_dice(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: tuple[int, ...]) -> float:
    """Dice's coefficient of two label maps [H, W], the mean over those ``classes`` that ``labels`` have.

    Pixels whose label is none of ``classes`` are left out. 0 if ``labels`` have none of them.
    """
    known = np.isin(labels, classes)
    values = []
    for c in classes:
        wanted, there = (labels == c) & known, (predicted == c) & known
        if wanted.any():
            values.append(2.0 * (wanted & there).sum() / (wanted.sum() + there.sum()))
    return float(np.mean(values)) if values else 0.0
