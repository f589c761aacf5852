"""Annotated images as the evaluation takes them, real and in-silico alike.

Notation: H, W height and width in pixels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.classes import ClassMap
from imaging.errors import InputError, brief
from imaging.images import read_image
from imaging.labels import check_same_size, label_map
from imaging.maskfile import read_mask
from imaging.rawfile import shown


@dataclass(frozen=True)
class Sample:
    """One annotated image. ``name`` is its own within its set; texts are empty where a thing is not known.

    ``masks`` are the label maps by annotator, whose name is empty where there is one alone. In-silico images have the
    ``round`` (from 1; 0 is real) and the name ``origin`` of the real image that they were made from, and may have a
    label map ``trusted`` in which doubtful pixels are ignored. All their label maps hold class numbers, 255 for none,
    whatever stands for the classes in real ones. The digests are of the origin and of the label map that it was given.
    """

    name: str
    image: Path
    masks: tuple[tuple[str, Path], ...]
    split: str = ""
    slide: str = ""
    patient: str = ""
    synthetic: bool = False
    round: int = 0
    origin: str = ""
    trusted: Path | None = None
    origin_sha256: str = ""
    target_sha256: str = ""

    @property
    def group(self) -> str:
        """What is drawn as a whole where images are resampled or split: the patient, else the slide, else the image.

        An in-silico image belongs to the image that it was made from.
        """
        return self.patient or self.slide or self.origin or self.name


def load_image(sample: Sample) -> NDArray[np.uint8]:
    """RGB [H, W, 3]. Raises InputError."""
    return read_image(sample.image)


def load_labels(sample: Sample, classes: ClassMap, annotator: str | None = None) -> NDArray[np.int64]:
    """The label map [H, W], C for ignored pixels, of one annotator: the first, if not said.

    Raises:
        InputError: it cannot be read, or there is none of this annotator.
    """
    return label_map(read_mask(_mask_of(sample, annotator)), _numbers(classes) if sample.synthetic else classes)


def load_pair(
    sample: Sample, classes: ClassMap, annotator: str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Image [H, W, 3] and label map [H, W]. Raises InputError, also where their sizes differ."""
    image, labels = load_image(sample), load_labels(sample, classes, annotator)
    check_same_size(labels, _mask_of(sample, annotator), image, sample.image)
    return image, labels


def load_trusted(sample: Sample, classes: ClassMap) -> NDArray[np.int64]:
    """The label map [H, W] in which doubtful pixels are ignored (C), or the plain one where there is none.

    Raises:
        InputError: it cannot be read.
    """
    if sample.trusted is None:
        return load_labels(sample, classes)
    return label_map(read_mask(sample.trusted), _numbers(classes))


def _numbers(classes: ClassMap) -> ClassMap:
    """The same classes in label maps made in silico."""
    return ClassMap(classes.names, tuple(range(len(classes))), ignored=(255,))


def _mask_of(sample: Sample, annotator: str | None) -> Path:
    if annotator is None and sample.masks:
        return sample.masks[0][1]
    for name, path in sample.masks:
        if name == annotator:
            return path
    known = ", ".join(brief(name or "one without a name") for name, _ in sample.masks) or "none"
    raise InputError(f"{shown(sample.image)}: no label map by {brief(annotator or 'anyone')}; there are {known}")
