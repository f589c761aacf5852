"""A class too small for the latents is told of: in a target it vanishes, in the origin nothing is taken from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import cli
from sampler.masks import vanishing_classes

SIZE = (64, 64)


def labels(*squares: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """Class 0, and over it squares (class, top, left, side)."""
    result = np.zeros(SIZE, dtype=np.int64)
    for label, top, left, side in squares:
        result[top : top + side, left : left + side] = label
    return result


@pytest.mark.parametrize(
    ("squares", "expected"),
    [
        ([], []),
        ([(1, 0, 0, 4)], [1]),
        ([(1, 4, 4, 8)], [1]),  # a quarter of each of four positions
        ([(1, 8, 8, 8)], []),
        ([(1, 8, 8, 6)], []),  # 36 of 64 px
        ([(1, 8, 8, 5)], [1]),
        ([(1, 0, 0, 64), (2, 3, 3, 2), (3, 60, 60, 1)], [2, 3]),
        ([(1, 0, 0, 64), (0, 9, 9, 3)], [0]),
    ],
    ids=str,
)
def test_a_class_with_pixels_and_no_latent_position_vanishes(
    squares: list[tuple[int, int, int, int]], expected: list[int]
) -> None:
    assert vanishing_classes(torch.from_numpy(labels(*squares)), 5, 8) == expected


def run(tmp_path: Path, weights: Path, origin: NDArray[np.int64], *targets: NDArray[np.int64], classes: str) -> None:
    """A short run, of two variants."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "patch.png")
    paths = [tmp_path / "origin.png", *(tmp_path / f"t{index}.png" for index in range(len(targets)))]
    for path, mask in zip(paths, (origin, *targets), strict=True):
        Image.fromarray(mask.astype(np.uint8)).save(path)
    arguments = ["--origin", str(tmp_path / "patch.png"), "--origin-mask", str(paths[0]), "--target-mask"]
    arguments += [*map(str, paths[1:]), "--weights", str(weights), "--output", str(tmp_path / "out")]
    arguments += ["--dtype", "fp32", "--classes", classes, "--variants", "2"]
    quick = "--steps 3 --skip-steps 1 --cross-attn-64 0:1 --cross-attn-32 0:1 --adain-range 0:1"
    assert cli.main(["generate", *arguments, *quick.split()]) == 0


def test_each_vanishing_class_is_told_of_once_for_each_file(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = labels((1, 0, 0, 32))
    run(tmp_path, tiny_folder, half, labels((1, 0, 0, 4)), half, labels((1, 0, 0, 3)), classes="stroma,gland")
    told = [line for line in capsys.readouterr().err.splitlines() if "latent position " in line]
    assert told == [
        f"note: class gland covers {pixels} px of {tmp_path / name}, less than one latent position (8×8 px) anywhere: "
        "it vanishes and the image will not show it"
        for name, pixels in (("t0.png", 16), ("t2.png", 9))
    ]


def test_a_class_vanishing_from_the_origin_gives_nothing(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, tiny_folder, labels((1, 0, 0, 4)), labels((1, 0, 0, 32)), classes="0,1")
    err = capsys.readouterr().err
    place = tmp_path / "origin.png"
    assert f"note: class 1 covers 16 px of {place}, less than one latent position (8×8 px) anywhere: nothing" in err
    assert "t0.png: class 1 covers fewer than 2 latent positions" in err
