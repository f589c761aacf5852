"""LoRA files for every layer of the full-size architecture, in both layouts: merged by diffusers and by us, compared.

Takes 5 GB of disk, 10 GB of memory and some minutes; `make parity`.
"""

from __future__ import annotations

import shutil

import pytest
from safetensors import safe_open

import model
from model.checkpoint.lora import Lora
from tests.model.checkpoints import WEIGHTS, expected, write_folder
from tests.model.lora_files import assert_as_fused, fused, kohya, peft, random_pairs, write
from tests.parity.make_full_size import full_size_modules

pytestmark = pytest.mark.parity

RANK = 8


def test_both_layouts_are_merged_as_by_diffusers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("full-size-lora")
    try:
        theirs = full_size_modules()
        folder = write_folder(directory / "folder", theirs)
        alphas = {"unet": 4.0, "text_encoder": 6.0}
        one = write(directory / "one.safetensors", kohya(random_pairs(theirs, 1, rank=RANK), alphas))
        other = write(directory / "other.safetensors", peft(random_pairs(theirs, 2, rank=RANK)))
        fused(theirs, (one, 0.7), (other, -0.4), in_place=True)
        loaded = model.load(folder, loras=[Lora(one, 0.7), Lora(other, -0.4)])
        changed = {}
        for part, file in WEIGHTS.items():
            with safe_open(folder / file, framework="pt") as stored:
                names = {key.removeprefix("text_model."): key for key in stored.keys()}  # noqa: SIM118
                changed[part] = assert_as_fused(
                    getattr(loaded, part).state_dict(),
                    expected(theirs, part),
                    lambda name, stored=stored, names=names: stored.get_tensor(names[name]),
                    2 * RANK,
                )
        assert changed == {"unet": 282, "vae": 0, "text_encoder": 72}
    finally:
        shutil.rmtree(directory)
