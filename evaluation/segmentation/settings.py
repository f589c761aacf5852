"""What decides a segmentation model: the paper's section 3.3 (Winter et al.), and what it leaves open."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import InputError, brief
from imaging.provenance import file_sha256
from imaging.rawfile import is_file, shown

ENCODER = "tu-tf_efficientnetv2_s"
"""The paper's EfficientNetV2-S, of timm."""

STRIDE = 32
"""By how much the encoders shrink an image, in px: windows are multiples of it."""

PRECISIONS = ("fp32", "bf16", "fp16")
MOST_STEPS, MOST_SIDE, MOST_BATCH = 10_000_000, 4096, 4096


@dataclass(frozen=True)
class TrainingSettings:
    """Adam, early stopping, augmentation and mixture of one training.

    ``encoder_weights`` None starts from random numbers; else the path of a safetensors file, or a name by which
    segmentation-models-pytorch fetches weights from the hub. Windows of ``size`` px a side are cut from the images;
    a step takes ``batch_size`` of them, on all ``devices`` together, and there are at most ``steps`` steps.
    Validation comes every ``validate_every`` steps, and training ends after ``patience`` of them without a better
    Dice. ``real_share`` is the share of real windows among all that are drawn; None: as many as there are real images
    among all. With ``trusted`` in-silico images are learnt from the label maps in which doubtful pixels are ignored.
    ``augment`` False is for tests of learning itself. ``workers`` are processes that read images; up to ``cache`` GB
    of decoded images are kept in memory.
    """

    encoder: str = ENCODER
    encoder_weights: str | None = None
    size: int = 512
    batch_size: int = 16
    steps: int = 10_000
    validate_every: int = 200
    patience: int = 10
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    real_share: float | None = None
    trusted: bool = True
    augment: bool = True
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    precision: str = "fp32"
    workers: int = 0
    cache: float = 4.0

    def check(self) -> None:
        """Raise InputError for the first field that cannot be used."""
        whole = {
            "batch_size": (1, MOST_BATCH),
            "steps": (1, MOST_STEPS),
            "validate_every": (1, MOST_STEPS),
            "patience": (1, MOST_STEPS),
            "seed": (0, 2**62),
            "devices": (1, 1024),
            "workers": (0, 256),
        }
        for name, (low, high) in whole.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"`{name}` {value}: must be from {low} to {high}")
        check_size(self.size)
        if self.batch_size % self.devices:
            raise InputError(f"`batch_size` {self.batch_size}: must be a multiple of the {self.devices} `devices`")
        if not (math.isfinite(self.learning_rate) and 0 < self.learning_rate <= 1):
            raise InputError(f"`learning_rate` {self.learning_rate:g}: must be above 0 and at most 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"`betas` {','.join(map(str, self.betas))}: must be two numbers from 0 to below 1")
        if self.real_share is not None and not 0 <= self.real_share <= 1:
            raise InputError(f"`real_share` {self.real_share:g}: must be from 0 to 1")
        if not 0 <= self.cache < 1e6:
            raise InputError(f"`cache` {self.cache:g}: must be from 0 GB to a million")
        if self.precision not in PRECISIONS:
            raise InputError(f"`precision` {brief(self.precision)}: must be one of {', '.join(PRECISIONS)}")


def check_size(size: int) -> None:
    """Raise InputError unless a window may have this side, in px."""
    if not STRIDE <= size <= MOST_SIDE or size % STRIDE:
        raise InputError(f"`size` {size}: must be a multiple of {STRIDE} px, from {STRIDE} to {MOST_SIDE}")


def weights_file(encoder_weights: str | None) -> Path | None:
    """The file that ``encoder_weights`` names, as a whole path; None for a name of the hub's, or none."""
    named = encoder_weights is not None and encoder_weights.endswith(".safetensors")
    return Path(os.path.abspath(os.path.expanduser(encoder_weights))) if encoder_weights and named else None


def weights_digest(encoder_weights: str | None) -> str | None:
    """SHA-256 of the file that ``encoder_weights`` names. Raises InputError if it is not there."""
    file = weights_file(encoder_weights)
    if file is None:
        return None
    if not is_file(file):
        raise InputError(f"{shown(file)}: no such file; check the path")
    return file_sha256(file)
