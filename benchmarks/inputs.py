"""Our whole job: the example patch at any size, with any number of classes and targets, in the preset's steps or 10."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice, product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import ROOT
from benchmarks.timing import Outputs
from imaging.images import read_image
from imaging.labels import read_label_set
from model import StableDiffusion
from sampler.execution import Execution
from sampler.inputs import TransferInputs
from sampler.presets import PRESETS
from sampler.series import Result, generate_series
from sampler.settings import Settings, Span
from sampler.tasks import GenerationTask

FOLDER = ROOT / "examples"
TARGETS = ("target_a.png", "target_b.png", "target_c.png")
MOST = 8 * len(TARGETS)
SEED = 0

WINTER = PRESETS["winter"]
# Ten steps instead of 100, with every kind of step: all numbers of steps are a tenth, rounded. The structure gives keys
# and values in one of the six steps that swap them; the preset's share, 6 of 58, is nearer to this than to none.
SHORT = replace(
    WINTER,
    steps=10,
    skip_steps=3,
    cross_attn_64=Span(1, 9),
    cross_attn_32=Span(1, 7),
    adain_range=Span(2, 10),
    structure_every=2,
    structure_until=4,
)


def example_patches(size: int, count: int) -> list[TransferInputs]:
    """``count`` targets for the one example patch, all ``size`` × ``size`` px and sharing the patch's arrays.

    The targets are the example's three, then the same turned by 90°, 180° and 270°, then all of these mirrored.

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
    turned = (np.rot90(target, turns)[:, ::side] for side, turns, target in product((1, -1), range(4), targets))
    some = map(np.ascontiguousarray, islice(turned, count))
    return [TransferInputs(image, origin, target, len(labels.classes)) for target in some]


def with_classes(patch: TransferInputs, count: int) -> TransferInputs:
    """``patch`` with every class cut into as many vertical stripes of equal width as make ``count`` classes.

    Raises ValueError unless ``count`` is a multiple of the patch's own number of classes.
    """
    stripes, rest = divmod(count, patch.num_classes)
    if rest or not stripes:
        raise ValueError(f"{count} classes: must be a multiple of the example's {patch.num_classes}")

    def cut(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return labels * stripes + np.arange(labels.shape[1]) * stripes // labels.shape[1]

    assert patch.origin_labels is not None
    origin, target = cut(patch.origin_labels), cut(patch.target_labels)
    return replace(patch, origin_labels=origin, target_labels=target, num_classes=count)


def refuse_beyond_preset(settings: Settings, who: str) -> None:
    """Raise ValueError naming the ``settings`` outside the ``winter`` preset's family, which ``who`` does not do."""
    names = ("inversion", "inversion_guidance", "within_class_attention", "adain_features", "redenoise", "free_u")
    refused = [name for name in names if getattr(settings, name) != getattr(WINTER, name)]
    if refused:
        raise ValueError(f"{who} does not do these settings: {', '.join(refused)}")


def shape_of(patches: Sequence[TransferInputs], settings: Settings) -> dict[str, int]:
    """The shape of a row for ``patches``, all of one size and one number of classes."""
    height, width = patches[0].target_labels.shape
    return {
        "height": height,
        "width": width,
        "classes": patches[0].num_classes,
        "targets": len(patches),
        "steps": settings.steps,
        "executed": settings.num_denoising_steps,
    }


def make_images(
    model: StableDiffusion,
    execution: Execution,
    patches: Sequence[TransferInputs],
    settings: Settings,
    done: Callable[[], None] = lambda: None,
) -> Outputs:
    """The product's job: latents [n, 4, h, w] and pixels [n, H, W, 3] in the order of ``patches``.

    ``done`` is called after each image.
    """
    results = []
    for event in generate_series(model, [GenerationTask(patch, SEED) for patch in patches], settings, execution):
        if isinstance(event, Result):
            results.append(event)
            done()
    return stacked(sorted(results, key=lambda result: result.index))


def stacked(results: Sequence[Result]) -> Outputs:
    """Latents [n, 4, h, w] and pixels [n, H, W, 3] of ``results``."""
    pixels = torch.stack([torch.from_numpy(result.image) for result in results])
    return torch.cat([result.latents for result in results]), pixels


def _resized(labels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    rows, columns = (np.arange(size) * side // size for side in labels.shape)
    return labels[rows[:, None], columns]
