"""The names in single files, checked against the published manifest and diffusers' own conversion."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from model.checkpoint.keys import SINGLE_FILE_IGNORED, ema_name, text_folder, unet_original, vae_original
from model.checkpoint.single_file import config_of_shapes
from model.checkpoint.tensors import (
    CheckpointIndex,
    Entry,
    build_empty,
    build_networks,
    find_parameters,
    refuse_unknown,
)
from model.config import SD15
from model.unet import UNet
from model.vae import VAE
from tests.model.originals import unet_name, vae_name

MANIFEST = Path(__file__).parents[1] / "data" / "sd15_single_file_keys.json.gz"


@pytest.fixture(scope="module")
def manifest() -> CheckpointIndex:
    """What the published v1-5-pruned-emaonly.safetensors holds."""
    path = Path("v1-5-pruned-emaonly.safetensors")
    shapes = json.loads(gzip.decompress(MANIFEST.read_bytes()))
    return CheckpointIndex(path, {key: Entry(path, key, tuple(shape), "F32") for key, shape in shapes.items()}, {})


def test_every_published_key_fills_one_parameter_or_is_ignored(manifest: CheckpointIndex) -> None:
    assert config_of_shapes(manifest) == SD15
    unet, vae, text = build_networks(SD15)
    names = {
        "model.diffusion_model.": unet_original(SD15.unet, unet.state_dict()),
        "first_stage_model.": vae_original(SD15.vae, vae.state_dict()),
        "cond_stage_model.transformer.": text_folder(text.state_dict()),
    }
    modules, counts, used = (unet, vae, text), (686, 248, 196), set()
    for (prefix, table), module, count in zip(names.items(), modules, counts, strict=True):
        found = find_parameters(manifest, prefix, module, {prefix + key: name for key, name in table.items()})
        assert len(found) == count
        used |= {entry.key for entry in found.values()}
    assert len(used) == 686 + 248 + 196
    ignored = manifest.entries.keys() - used
    assert ignored == {"cond_stage_model.transformer.text_model.embeddings.position_ids"}
    refuse_unknown(manifest, used | SINGLE_FILE_IGNORED)


def test_published_names_mean_what_diffusers_takes_them_for(manifest: CheckpointIndex) -> None:
    """diffusers' own conversion, fed with a number in place of each tensor."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    numbers = {key: torch.full((2, 2, 1, 1), float(number)) for number, key in enumerate(manifest.entries)}
    keys = list(manifest.entries)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    converted = {
        "model.diffusion_model.": convert_ldm_unet_checkpoint(dict(numbers), unet.config),
        "first_stage_model.": convert_ldm_vae_checkpoint(dict(numbers), vae.config),
    }
    ours = {
        "model.diffusion_model.": unet_original(SD15.unet, build_empty(lambda: UNet(SD15.unet)).state_dict()),
        "first_stage_model.": vae_original(SD15.vae, build_empty(lambda: VAE(SD15.vae)).state_dict()),
    }
    for prefix, table in ours.items():
        theirs = {keys[int(value.flatten()[0])]: name for name, value in converted[prefix].items()}
        assert theirs == {prefix + key: name for key, name in table.items() if prefix + key in manifest.entries}


def test_the_tests_own_renaming_agrees_with_the_tables(manifest: CheckpointIndex) -> None:
    unet = build_empty(lambda: UNet(SD15.unet)).state_dict()
    vae = build_empty(lambda: VAE(SD15.vae)).state_dict()
    assert {unet_name(name): name for name in unet} == unet_original(SD15.unet, unet)
    names = vae_original(SD15.vae, vae)
    assert {vae_name(name): name for name in vae}.items() <= names.items()
    assert all(".mid.attn_1." in key for key in names.keys() - {vae_name(name) for name in vae})


def test_flattened_names_are_told_apart() -> None:
    names = unet_original(SD15.unet, build_empty(lambda: UNet(SD15.unet)).state_dict())
    assert len({ema_name(original) for original in names}) == len(names) == 686
