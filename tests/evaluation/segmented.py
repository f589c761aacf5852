"""Small annotated images of several slides, and quick trainings on them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cli
from evaluation.samples import Sample
from imaging.classes import ClassMap
from imaging.images import write_png

CLASSES = ClassMap.parse("stroma=0,epithelium=255,ignore=9")
SLIDES = {"s1": ("train", 4), "s2": ("train", 4), "s3": ("val", 3), "s4": ("test", 2), "s5": ("test", 2)}
FEW = ("--steps", "60", "--validate-every", "20", "--learning-rate", "0.005")
QUICK = ("--encoder", "tu-mobilenetv3_small_050", "--size", "32", "--batch-size", "4", "--device", "cpu")


def write_labelled(folder: Path, name: str, labels: np.ndarray, seed: int, values: Sequence[int] = (0, 255)) -> Sample:
    """An image whose colours tell its classes, with noise, and its label map of ``values``."""
    rng = np.random.default_rng(seed)
    colours = np.array([[200, 200, 220], [150, 90, 40], [60, 60, 140]])[labels.clip(max=2)]
    image = (colours + rng.normal(0, 12, (*labels.shape, 3))).clip(0, 255).astype(np.uint8)
    image[labels == len(values)] = 255
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_png(folder / "images" / name, image)
    write_png(folder / "masks" / name, np.array([*values, 9], dtype=np.uint8)[labels])
    return Sample(f"images/{name}", folder / "images" / name, (("", folder / "masks" / name),))


def blobs(seed: int, side: int = 48) -> np.ndarray:
    """A label map [side, side] of two classes: a disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centre, radius = rng.uniform(0.3 * side, 0.7 * side, 2), rng.uniform(0.2 * side, 0.35 * side)
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.int64)


def write_set(root: Path, slides: Mapping[str, tuple[str, int]], name: str = "manifest.csv", seed: int = 0) -> Path:
    """A manifest of images by slide: its split, and how many of it there are."""
    lines = ["file_name,mask_file_name,split,slide_id"]
    for slide, (split, count) in slides.items():
        for number in range(count):
            seed += 1
            write_labelled(root, f"{slide}-{number}.png", blobs(seed), seed)
            lines.append(f"images/{slide}-{number}.png,masks/{slide}-{number}.png,{split},{slide}")
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def write_made(root: Path, origins: Sequence[tuple[str, Path, str]], **more: Any) -> Path:
    """A dataset made in silico: an image for each origin's name, file and slide; ``more`` goes into the rows."""
    rows = []
    for number, (origin, file, slide) in enumerate(origins):
        labels = blobs(1000 + number)
        write_labelled(root, f"m{number}.png", labels, 1000 + number, values=(0, 1))
        (root / "masks_trusted").mkdir(exist_ok=True)
        trusted = labels.astype(np.uint8)
        trusted[:8] = 255
        write_png(root / "masks_trusted" / f"m{number}.png", trusted)
        rows.append(
            {
                "file_name": f"images/m{number}.png",
                "mask_file_name": f"masks/m{number}.png",
                "trusted_mask_file_name": f"masks_trusted/m{number}.png",
                "synthetic": True,
                "round": 1,
                "origin": origin,
                "origin_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "slide_id": slide,
                "split": "train",
                "class_fractions": {"stroma": 0.5, "epithelium": 0.5},
                **more,
            }
        )
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def train(source: Path, output: Path, *more: str) -> int:
    """A quick training by the command; its exit code."""
    return cli.main(["segmentation", "train", str(source), "--output", str(output), *QUICK, *more])


def evaluate(source: Path, output: Path, *more: str) -> int:
    """An evaluation by the command; its exit code."""
    return cli.main(["segmentation", "evaluate", str(source), "--output", str(output), "--device", "cpu", *more])


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
