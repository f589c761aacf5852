"""Patches cut from annotated tissue cores: from the layout of the public CRC epithelium set to annotated images.

That set (DataverseNO, doi 10.18710/DIGQGQ, CC0) has an archive for each stain, with ``Cancer/`` and ``Normal mucosa/``
in it, and for each core an image ``A001-4.jpg`` with a label map ``A001-4.png`` beside it: 1 is epithelium, 0 the rest.
What stands before the hyphen is the patient. ``python -m commands.cores Ki67 patches`` cuts it up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.images import read_image, write_png
from imaging.labels import check_same_size, label_map
from imaging.maskfile import read_mask
from imaging.output import write_text
from imaging.rawfile import shown

CLASSES = ClassMap.parse("epithelium=1,stroma=0")
IMAGE, MASK = ".jpg", ".png"
SPLITS = (("test", 0.25), ("val", 0.15), ("train", 0.6))
"""Shares of the patients."""
WHITE = 225
"""A pixel whose darkest channel is above this is glass."""
LEAST_TISSUE, LEAST_CLASS = 0.6, 0.05
"""Shares of a patch that is taken."""


@dataclass(frozen=True)
class Core:
    """One tissue core and its label map."""

    image: Path
    mask: Path

    @property
    def patient(self) -> str:
        """Whose it is."""
        return self.image.stem.partition("-")[0]


def find_cores(folder: Path) -> list[Core]:
    """All cores below ``folder``, in the order of their paths. Raises InputError for one without label map."""
    found = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(IMAGE) and not name.startswith("."):
                image = Path(root, name)
                mask = image.with_suffix(MASK)
                if not mask.exists():
                    raise InputError(f"{shown(image)}: has no label map {shown(mask.name)} beside it; add or remove it")
                found.append(Core(image, mask))
    if not found:
        raise InputError(f"{shown(folder)}: no cores ({IMAGE} and {MASK} of the same name) there; check the path")
    return found


def cut(core: Core, side: int, most: int) -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Up to ``most`` patches of ``side`` px that are mostly tissue and have both classes: place, image, labels.

    They lie on a grid about the core's middle; which of them are taken is decided by their names' digests. Raises
    InputError.
    """
    image = read_image(core.image)
    labels = label_map(read_mask(core.mask), CLASSES)
    check_same_size(labels, core.mask, image, core.image)
    starts = [range(length % side // 2, length - side + 1, side) for length in labels.shape]
    usable = []
    for top in starts[0]:
        for left in starts[1]:
            on = np.s_[top : top + side, left : left + side]
            tissue = float((image[on].min(axis=2) <= WHITE).mean())
            counts = [float((labels[on] == c).mean()) for c in range(len(CLASSES))]
            if tissue >= LEAST_TISSUE and min(counts) >= LEAST_CLASS:
                usable.append((f"x={left},y={top},w={side},h={side}", image[on], labels[on].astype(np.uint8)))
    usable.sort(key=lambda each: _number(f"{core.image.name} {each[0]}"))
    return usable[:most]


def split_of(patients: Sequence[str]) -> dict[str, str]:
    """The split of each patient: shares of `SPLITS`, by their names' digests."""
    order = sorted(set(patients), key=_number)
    if len(order) < len(SPLITS):
        raise InputError(f"only {len(order)} patients; there must be {len(SPLITS)} at least, one for each split")
    found = {}
    for split, share in SPLITS[:-1]:
        for patient in order[: max(1, round(share * len(set(patients))))]:
            found[patient] = split
        order = [patient for patient in order if patient not in found]
    return found | dict.fromkeys(order, SPLITS[-1][0])


def write_patches(folder: Path, output: Path, side: int, most: int) -> Iterator[str]:
    """Cut all cores below ``folder`` and write ``output`` as annotated images with a manifest; yields a line for each.

    Raises:
        InputError: a core cannot be read, nothing can be cut, or ``output`` is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{shown(output)}: not empty; choose a new folder")
    cores = find_cores(folder)
    splits = split_of([core.patient for core in cores])
    for part in ("images", "masks"):
        (output / part).mkdir(parents=True, exist_ok=True)
    lines = []
    for core in cores:
        patches = cut(core, side, most)
        kind = core.image.parent.name
        for place, image, labels in patches:
            name = f"{kind} {core.image.stem} [{place}].png"
            write_png(output / "images" / name, image)
            write_png(output / "masks" / name, labels)
            row = {"file_name": f"images/{name}", "mask_file_name": f"masks/{name}", "split": splits[core.patient]}
            lines.append(json.dumps({**row, "slide_id": core.image.stem, "patient_id": core.patient}) + "\n")
        yield f"{core.image.stem}: {len(patches)} patches"
    if not lines:
        raise InputError(
            f"{shown(folder)}: no patch of {side} px has both classes and enough tissue; give a smaller side"
        )
    write_text(output / "manifest.jsonl", "".join(lines))
    yield f"{len(lines)} patches of {len(splits)} patients in {output}"


def _number(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
