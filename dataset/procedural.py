"""A small dataset drawn by procedure, on which everything can be tried: a few slides, some patches of each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset.folder import write_text
from dataset.tissue import draw_slide, random_slide
from imaging.images import write_png

SLIDES, PATCHES = 3, 3
SIDE = 128
CLASSES = "epithelium=0,stroma=1"


def draw_dataset(root: Path, *, slides: int = SLIDES, patches: int = PATCHES, side: int = SIDE, seed: int = 0) -> Path:
    """Draw ``slides`` · ``patches`` square patches into ``root``; returns the manifest. Slides do not mix splits.

    The last slide is the split ``val``, the others ``train``. Raises InputError if it cannot be written.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for slide in range(slides):
        # Membranous stains alone: what the demonstration weights draw best.
        drawn = random_slide(rng)
        while drawn.pattern != "membrane":
            drawn = random_slide(rng)
        drawn = replace(drawn, gland_scale=min(drawn.gland_scale, side / 6), lumen_share=0.0)
        for patch in range(patches):
            image, labels = draw_slide(rng, drawn, side)
            name = f"slide{slide}-{patch}.png"
            write_png(root / "images" / name, image)
            write_png(root / "masks" / name, labels)
            row = {
                "file_name": f"images/{name}",
                "mask_file_name": f"masks/{name}",
                "split": "val" if slide == slides - 1 else "train",
                "slide_id": f"slide{slide}",
            }
            lines.append(json.dumps(row) + "\n")
    write_text(root / "manifest.jsonl", "".join(lines))
    return root / "manifest.jsonl"
