"""The two worlds of the committed experiment: drawn tissue of one assay, and nuclei of one stain of DSB 2018.

``python -m demo.worlds drawn FOLDER`` and ``python -m demo.worlds nuclei FOLDER --dsb2018 DSB2018``. What came of them
is in docs/evidence/demonstration.md.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from dataset.procedural import draw_world
from demo.real import RealImage, read_sources
from imaging.images import write_png
from imaging.output import write_text

EXAMPLE = Path("examples/ihc.png")
SLIDES = 24, 6, 20  # for training, validation, test; a patch each
PATCH, FIELD = 128, 256  # px
VALIDATION = 8
WANTED_SHARE = 0.25  # of nuclei in a patch
SHARES = 0.01, 0.9


def main() -> None:
    """Write one of them."""
    parser = argparse.ArgumentParser(description="Write a world of the committed experiment.")
    parser.add_argument("world", choices=("drawn", "nuclei"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dsb2018", type=Path, help="folder of images/ and masks/, for nuclei")
    given = parser.parse_args()
    if given.world == "drawn":
        # Stains twice as far apart as random slides have: one assay in several laboratories.
        draw_world(given.folder, slides=SLIDES, patches=1, side=PATCH, seed=1, variation=2.0)
        return
    if given.dsb2018 is None:
        parser.error("nuclei want --dsb2018")
    print(write_nuclei(given.folder, given.dsb2018))


def write_nuclei(folder: Path, dsb2018: Path) -> Counter[str]:
    """Write the purple stain as a dataset: a 128 px patch of every image for training, 256 px fields for the test.

    Test fields are of images that the demonstration weights have never seen. Returns how many each split has.
    """
    sources = read_sources(EXAMPLE, None, dsb2018)
    training = [image for image in sources.nuclei if is_purple(image)]
    test = [image for image in sources.held_out_nuclei if is_purple(image)]
    validation = set(np.random.default_rng(0).permutation(len(training))[:VALIDATION].tolist())
    cut = [("val" if n in validation else "train", typical_patch(image)) for n, image in enumerate(training)]
    cut += [("test", crop(image, 0, (image.labels.shape[1] - FIELD) // 2, FIELD)) for image in test]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (split, image) in enumerate(cut):
        if not SHARES[0] < nuclear_share(image) < SHARES[1]:
            continue
        name = f"{number:03}.png"
        write_png(folder / "images" / name, image.image)
        write_png(folder / "masks" / name, np.where(image.labels == 0, 255, 0).astype(np.uint8))
        rows.append({"file_name": f"images/{name}", "mask_file_name": f"masks/{name}", "split": split})
    write_text(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return Counter(row["split"] for row in rows)


def is_purple(image: RealImage) -> bool:
    """Whether the ground between nuclei is purple, as in 65 of the 107 coloured images, and not grey or pink."""
    red, green, blue = image.image[image.labels != 0].astype(float).mean(axis=0)
    return bool(blue - green > 30 and red < blue - 10)


def typical_patch(image: RealImage) -> RealImage:
    """The patch whose share of nuclei is nearest to a quarter."""
    height, width = image.labels.shape
    patches = [
        crop(image, y, x, PATCH) for y in range(0, height - PATCH + 1, 64) for x in range(0, width - PATCH + 1, 64)
    ]
    return min(patches, key=lambda patch: abs(nuclear_share(patch) - WANTED_SHARE))


def crop(image: RealImage, y: int, x: int, side: int) -> RealImage:
    """A square of ``side`` px."""
    return RealImage(image.image[y : y + side, x : x + side], image.labels[y : y + side, x : x + side])


def nuclear_share(image: RealImage) -> float:
    """Of its pixels; class 0 is nuclei."""
    return float((image.labels == 0).mean())


if __name__ == "__main__":
    main()
