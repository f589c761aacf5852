"""A small job that the tests of the commands share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.commands.running import QUICK


@pytest.fixture
def job(tmp_path, tiny_folder):
    """Files of a small job, and the arguments that run it."""
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)).save(tmp_path / "patch.png")
    for name, shape in (("patch_mask", (64, 128)), ("wanted", (70, 90))):
        labels = np.kron(rng.integers(0, 2, (8, 9)), np.ones((8, 16)))
        labels = np.pad(labels, ((0, 64), (0, 64)), mode="wrap")[: shape[0], : shape[1]]
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    files = {"origin": "patch.png", "origin-mask": "patch_mask.png", "target-mask": "wanted.png"}
    arguments = [word for option, name in files.items() for word in (f"--{option}", str(tmp_path / name))]
    # The type is named, since the default depends on the processor.
    return [*arguments, "--weights", str(tiny_folder), "--output", str(tmp_path / "out"), "--dtype", "fp32", *QUICK]
