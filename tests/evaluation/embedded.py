"""Small sets for embeddings: real images of several slides, and a dataset made in silico of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dataset.tissue import draw_slide, random_slide
from imaging.images import write_png

SLIDES, EACH = 4, 2


def draw_real(root: Path, side: int = 64, seed: int = 0) -> list[str]:
    """Images of `SLIDES` slides, `EACH` of each, with a manifest; returns their names there."""
    rng = np.random.default_rng(seed)
    names, rows = [], []
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for slide in range(SLIDES):
        look = random_slide(rng)
        for number in range(EACH):
            image, labels = draw_slide(rng, look, side)
            labels[0, :2] = (0, 1)
            name = f"slide{slide}-{number}.png"
            write_png(root / "images" / name, image)
            write_png(root / "masks" / name, labels)
            names.append(f"images/{name}")
            rows.append({"file_name": names[-1], "mask_file_name": f"masks/{name}", "slide_id": f"slide{slide}"})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return names


def draw_made(root: Path, origins: list[str], rounds: int = 2, side: int = 64, shift: int = 0) -> None:
    """A dataset as `dataset` makes it: for each origin and round an image, brighter by ``shift``."""
    rng = np.random.default_rng(1)
    rows = []
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for origin in origins:
        slide = Path(origin).name.partition("-")[0]
        for number in range(1, rounds + 1):
            image, labels = draw_slide(rng, random_slide(rng), side)
            labels[0, :3] = (0, 1, 255)
            name = f"r{number}-{Path(origin).name}"
            write_png(root / "images" / name, np.clip(image.astype(int) + shift, 0, 255).astype(np.uint8))
            write_png(root / "masks" / name, labels)
            row = {"file_name": f"images/{name}", "mask_file_name": f"masks/{name}", "synthetic": True}
            rows.append(row | {"round": number, "origin": origin, "slide_id": slide})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
