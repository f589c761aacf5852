"""Size and schedule of our whole jobs: as options, as rows have them, and what of them can grow."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass

from sampler.inputs import TransferInputs
from sampler.settings import Settings


@dataclass(frozen=True)
class Axis:
    """One way in which jobs grow: what its rows are called, the entries of a row's shape that grow, and their unit."""

    what: str
    entries: tuple[str, ...]
    unit: str


AXES = {
    "size": Axis("scaling by size", ("height", "width"), "pixels a side"),
    "classes": Axis("scaling by classes", ("classes",), "classes"),
    "targets": Axis("scaling by targets", ("targets",), "targets of one origin"),
}


def add_size_and_steps(parser: ArgumentParser, *, cuda: bool) -> None:
    """The options ``--size`` and ``--steps``, with defaults that fit a GPU or a CPU."""
    parser.add_argument(
        "--size", type=int, default=512 if cuda else 256, help="of the square images, px (default here: %(default)s)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=100 if cuda else 10,
        help="of the preset's 100, everything else in it scaled alike (default here: %(default)s)",
    )


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
