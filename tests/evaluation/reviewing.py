"""Small studies and readers of known skill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.review.answers import CHOICES, FINDINGS, FORMAT
from evaluation.review.key import Key
from evaluation.review.study import ImageSet, Study, Wanted, make_study
from evaluation.samples import Sample
from imaging.images import write_png

SIDE = 24


def draw_set(folder: Path, name: str, count: int, origins: list[str] | None = None, seed: int = 0) -> ImageSet:
    """``count`` images of noise with label maps of two classes; made from ``origins`` in turns, or real."""
    rng = np.random.default_rng([seed, len(name), count])
    samples = []
    for part in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    for index in range(count):
        file, mask = (folder / name / part / f"{name}{index}.png" for part in ("images", "masks"))
        # In-silico images are smooth, so that their files are short.
        coarse = rng.integers(0, 256, (SIDE, SIDE, 3) if origins is None else (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        write_png(file, np.repeat(np.repeat(coarse, SIDE // len(coarse), 0), SIDE // len(coarse), 1), {"about": name})
        labels = (rng.random((SIDE, SIDE)) < rng.random()).astype(np.uint8)
        labels[0, :2] = (0, 1)
        write_png(mask, labels)
        origin = "" if origins is None else origins[index % len(origins)]
        synthetic = origins is not None
        samples.append(
            Sample(f"images/{file.name}", file, (("", mask),), synthetic=synthetic, round=int(synthetic), origin=origin)
        )
    return ImageSet(folder / name, name, tuple(samples), origins is not None)


def sets(folder: Path, reals: int = 24, made: int = 16) -> list[ImageSet]:
    """Real images and two arms made from the first of them."""
    real = draw_set(folder, "real", reals)
    origins = [each.name for each in real.samples[: max(1, reals // 2)]]
    return [real, draw_set(folder, "winter", made, origins), draw_set(folder, "alaluf", made, origins[::-1])]


def study_of(given: list[ImageSet], **changes: Any) -> Study:
    """The study, at once."""
    wanted = {"count": 12, "repeats": 0.25, "mode": "single", "seed": 3, "side": None, "version": "0", **changes}
    work = make_study(given, None, Wanted(**wanted))
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def answer_rows(key: Key, signs: dict[str, int], confidence: int = 3) -> list[dict[str, Any]]:
    """What the page would save of these signs by trial."""
    return [
        {
            "trial": trial,
            "choice": CHOICES[key.mode][(sign + 1) // 2],
            "confidence": confidence,
            "findings": [next(iter(FINDINGS))] if sign > 0 else [],
            "comment": "",
            "seconds": 2.5,
            "revisions": 0,
        }
        for trial, sign in signs.items()
    ]


def write_answers(path: Path, key: Key, reader: str, rows: list[dict[str, Any]], **changes: Any) -> Path:
    """The file of a reader."""
    content = {"format": FORMAT, "study": key.study, "mode": key.mode, "reader": reader, "answers": rows, **changes}
    path.write_text(json.dumps(content))
    return path


def truths(key: Key) -> dict[str, int]:
    """The right signs."""
    return {trial.id: key.truth(trial) for trial in key.trials}
