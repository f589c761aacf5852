"""The example patch as input of benchmarks, at any size."""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import ROOT
from imaging.images import read_image
from imaging.labels import read_label_set
from sampler.inputs import TransferInputs

FOLDER = ROOT / "examples"
TARGETS = ("target_a.png", "target_b.png", "target_c.png")
MOST = 4 * len(TARGETS)


def example_patches(size: int, count: int) -> list[TransferInputs]:
    """``count`` targets for the one example patch, all ``size`` × ``size`` px and sharing the patch's arrays.

    The targets are the example's three, then the same turned by 90°, 180° and 270°.

    Raises ValueError for a ``size`` that is not a multiple of 64 or a ``count`` that is not from 1 to `MOST`.
    """
    if size < 64 or size % 64:
        raise ValueError(f"size {size}: must be a multiple of 64 px")
    if not 1 <= count <= MOST:
        raise ValueError(f"{count} targets: must be from 1 to {MOST}")
    labels = read_label_set((FOLDER / "ihc_mask.png", *(FOLDER / name for name in TARGETS)), None)
    origin, *targets = (_resized(labels_of_one, size) for labels_of_one in labels.maps)
    picture = Image.fromarray(read_image(FOLDER / "ihc.png")).resize((size, size), Image.Resampling.LANCZOS)
    image = np.array(picture, dtype=np.uint8)
    turned = (np.ascontiguousarray(np.rot90(target, turns)) for turns in range(4) for target in targets)
    return [TransferInputs(image, origin, target, len(labels.classes)) for target in islice(turned, count)]


def _resized(labels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    rows, columns = (np.arange(size) * side // size for side in labels.shape)
    return labels[rows[:, None], columns]
