"""Our whole job: the example patch at any size, with any number of classes and targets, in any number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import ROOT
from benchmarks.timing import Outputs, Phases
from imaging.images import read_image
from imaging.labels import read_label_set
from model import StableDiffusion
from sampler.execution import Execution
from sampler.inputs import TransferInputs
from sampler.series import GenerationTask, Result, generate_series
from sampler.settings import PRESETS, Settings, Span

FOLDER = ROOT / "examples"
TARGETS = ("target_a.png", "target_b.png", "target_c.png")
MOST = 8 * len(TARGETS)
SEED = 0


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
    turned = (
        np.ascontiguousarray(np.rot90(target, turns)[:, ::side])
        for side in (1, -1)
        for turns in range(4)
        for target in targets
    )
    return [TransferInputs(image, origin, target, len(labels.classes)) for target in islice(turned, count)]


def with_classes(patch: TransferInputs, count: int) -> TransferInputs:
    """``patch`` with every class cut into as many vertical stripes of equal width as make ``count`` classes.

    Raises ValueError unless ``count`` is a multiple of the patch's own number of classes.
    """
    stripes, rest = divmod(count, patch.num_classes)
    if rest or not stripes:
        raise ValueError(f"{count} classes: must be a multiple of the example's {patch.num_classes}")

    def cut(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        width = labels.shape[1]
        return labels * stripes + np.arange(width) * stripes // width

    return replace(
        patch, origin_labels=cut(patch.origin_labels), target_labels=cut(patch.target_labels), num_classes=count
    )


def shortened(steps: int) -> Settings:
    """The ``winter`` preset with ``steps`` instead of 100; for 100 the preset itself.

    Every number of steps in it is scaled and rounded: the skipped ones, the ends of all ranges, and where the
    structure's turns end. How often the structure is taken cannot be scaled (every 5th step of 100 would be every half
    step of 10), so it becomes what brings the structure's share of the swapped steps nearest to the preset's 6 of 58;
    of two equally near, the more frequent.

    Raises ValueError if a kind of step would not occur at all: known in advance, swapped with the origin or with the
    structure, matched in each of two classes.
    """
    full = PRESETS["winter"]

    def scaled(count: int) -> int:
        return round(count * steps / full.steps)

    def span(of: Span | None) -> Span | None:
        return None if of is None else Span(scaled(of.start), scaled(of.stop))

    settings = replace(
        full,
        steps=steps,
        skip_steps=scaled(full.start_step),
        cross_attn_64=span(full.cross_attn_64),
        cross_attn_32=span(full.cross_attn_32),
        adain_range=Span(scaled(full.adain_range.start), scaled(full.adain_range.stop)),
        structure_until=scaled(full.structure_until),
    )
    _, wanted = _swaps(full)
    settings = min(
        (replace(settings, structure_every=every) for every in range(1, settings.num_denoising_steps + 1)),
        key=lambda candidate: abs(_swaps(candidate)[1] - wanted),
    )
    swapped, share = _swaps(settings)
    matched = {c for j in range(settings.num_denoising_steps) for c in settings.adain_classes(j, 2)}
    if not (settings.num_known_steps and 0.0 < share < 1.0 and matched == {0, 1}):
        raise ValueError(f"{steps} steps are too few for every kind of step ({swapped} would swap)")
    return full if settings == replace(full, skip_steps=full.start_step) else settings


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
    phases: Phases | None = None,
) -> Outputs:
    """The product's job: latents [n, 4, h, w] and pixels [n, H, W, 3] in the order of ``patches``."""
    results = []
    for event in generate_series(model, [GenerationTask(patch, SEED) for patch in patches], settings, execution):
        if isinstance(event, Result):
            results.append(event)
            if phases is not None:
                phases.image()
        elif event.done == event.total and phases is not None:
            phases.finished(event.phase)
    return stacked(sorted(results, key=lambda result: result.index))


def stacked(results: Sequence[Result]) -> Outputs:
    """Latents [n, 4, h, w] and pixels [n, H, W, 3] of ``results``."""
    pixels = torch.stack([torch.from_numpy(result.image) for result in results])
    return torch.cat([result.latents for result in results]), pixels


def _resized(labels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    rows, columns = (np.arange(size) * side // size for side in labels.shape)
    return labels[rows[:, None], columns]


def _swaps(settings: Settings) -> tuple[int, float]:
    """How many steps swap keys and values, and the share of them that takes the structure's."""
    swapped = [j for j in range(settings.num_denoising_steps) if settings.swapped_levels(j)]
    if not swapped:
        return 0, 0.0
    return len(swapped), sum(settings.swaps_in_structure(j) for j in swapped) / len(swapped)
