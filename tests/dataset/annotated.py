"""Small annotated images, drawn by procedure, and running the command on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cli
from dataset.tissue import draw_slide, random_slide
from tests.commands.running import QUICK


def draw(folder: Path, count: int, side: int = 64, seed: int = 0) -> list[str]:
    """``count`` pairs in ``folder``'s images/ and masks/; returns their names."""
    rng = np.random.default_rng(seed)
    slide = random_slide(rng)
    names = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, labels = draw_slide(rng, slide, side)
        labels[0, :2] = (0, 1)  # both classes are there
        names.append(f"p{index}.png")
        Image.fromarray(image).save(folder / "images" / names[-1])
        Image.fromarray(labels).save(folder / "masks" / names[-1])
    return names


def arguments(weights: Path, output: Path, *more: str) -> list[str]:
    """Of a quick run in the tiny model."""
    quick = ["--weights", str(weights), "--dtype", "fp32", "--threads", "1", *QUICK]
    return ["dataset", "--output", str(output), *quick, *more]


def run(source: Path, weights: Path, output: Path, *more: str) -> int:
    """The command in this process; its exit code."""
    return cli.main([*arguments(weights, output, *more), str(source)])


def contents(root: Path) -> dict[str, str]:
    """Digests of all files of a dataset, those for going on with it apart."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "work"
    }


def rows(root: Path) -> list[dict[str, Any]]:
    """The manifest's."""
    return [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
