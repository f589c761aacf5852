"""What the user should know of a run before it starts: settings not given, classes that vanish or cannot be matched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imaging.labels import LabelSet
from imaging.rawfile import shown
from sampler.field_denoising import layout_of
from sampler.inputs import TransferInputs
from sampler.masks import vanishing_classes
from sampler.settings import Settings


@dataclass(frozen=True)
class Note:
    """Something the user should know. Fields in backquotes are written as flags when it is shown."""

    text: str


def notes_on_fonts(names: Sequence[str], fonts: Sequence[object]) -> Iterator[Note]:
    """One note for each class whose name no font here can draw."""
    for index, name in enumerate(names):
        if fonts[index] is None:
            fix = "install one that has it, such as Noto"
            yield Note(f"no font here can draw the name {name}: the panel's legend says class {index}; {fix}")


def notes_on_classes(
    labels: LabelSet,
    padded: Sequence[NDArray[np.int64]],
    pairs: Sequence[TransferInputs],
    paths: Sequence[Path],
    settings: Settings,
    factor: int,
) -> Iterator[Note]:
    """Classes that win no latent position of ``factor`` px, and those of targets that AdaIN cannot match.

    ``paths`` are the files of ``labels`` and of the ``padded`` maps: the origin's first, if it has one, then those of
    the targets, for each of which ``pairs`` has one.
    """
    names, first = labels.classes.names, len(paths) - len(pairs)
    for number, (path, whole, grown) in enumerate(zip(paths, labels.maps, padded, strict=True)):
        effect = "it vanishes and the image will not show it" if number >= first else "nothing is taken from it"
        for label in vanishing_classes(torch.from_numpy(grown), len(names), factor):
            pixels = int((whole == label).sum())
            yield Note(
                f"{_class(names[label])} covers {pixels} px of {shown(path)}, less than one latent position "
                f"({factor}×{factor} px) anywhere: {effect}"
            )
    if settings.adain in ("global", "none"):
        return
    for path, pair in zip(paths[first:], pairs, strict=True):
        for label in pair.unmatched_classes(factor):
            yield Note(
                f"{shown(path)}: {_class(names[label])} covers fewer than 2 latent positions of the origin or of the "
                "target; its statistics are left as they are"
            )


def notes_on_windows(
    targets: Sequence[NDArray[np.int64]], paths: Sequence[Path], settings: Settings, factor: int
) -> Iterator[Note]:
    """One note for each padded target [H', W'], of the file at the same place of ``paths``, that goes in windows."""
    for path, target in zip(paths, targets, strict=True):
        layout, side = layout_of(settings, target.shape, factor), settings.window_for(target.shape)
        if layout is not None:
            yield Note(
                f"{shown(path)}: made in {len(layout.windows)} windows of {side} px that overlap by "
                f"{settings.window_overlap} px at least (`window` and `window_overlap` say otherwise)"
            )


def _class(name: str) -> str:
    """A class for a note; those that the user did not name have names like ``class 0``."""
    return name if name.startswith("class ") else f"class {name}"
