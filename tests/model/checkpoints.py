"""Small checkpoints on disk as diffusers, transformers and CompVis write them, and ways to damage them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig

# Widths, heads and groups from which a single file's configuration can be read: 32 groups, 8 heads, text heads of 64.
SMALL = ModelConfig(
    unet=UNetConfig(block_out_channels=(32, 64, 64, 64), cross_attention_dim=64),
    vae=VAEConfig(block_out_channels=(32, 32, 64, 64)),
    text=TextConfig(width=64, mlp_width=96, layers=2, num_heads=1),
)
PARTS = ("unet", "vae", "text_encoder")
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def their_modules(config: ModelConfig = SMALL, seed: int = 0) -> SimpleNamespace:
    """diffusers' and transformers' modules with seeded random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        block_out_channels=config.unet.block_out_channels,
        cross_attention_dim=config.unet.cross_attention_dim,
        attention_head_dim=config.unet.num_heads,
        norm_num_groups=config.unet.groups,
    )
    levels = len(config.vae.block_out_channels)
    vae = AutoencoderKL(
        block_out_channels=config.vae.block_out_channels,
        layers_per_block=config.vae.layers_per_block,
        norm_num_groups=config.vae.groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=config.text.width,
            intermediate_size=config.text.mlp_width,
            num_hidden_layers=config.text.layers,
            num_attention_heads=config.text.num_heads,
        )
    )
    # Otherwise every norm's weight is 1 and bias 0, and one taken for another would not show.
    for module in (unet, vae, text):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        module.eval().requires_grad_(False)
    return SimpleNamespace(unet=unet, vae=vae, text_encoder=text)


def write_folder(folder: Path, theirs: SimpleNamespace) -> Path:
    """Write a diffusers folder by the libraries' own ``save_pretrained``."""
    from diffusers import PNDMScheduler

    for part in PARTS:
        getattr(theirs, part).save_pretrained(folder / part)
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    ).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.0"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def expected(theirs: SimpleNamespace, part: str) -> dict[str, Tensor]:
    """The tensors of one of their modules by our names."""
    return {key.removeprefix("text_model."): value for key, value in getattr(theirs, part).state_dict().items()}


def assert_holds(loaded: model.StableDiffusion, theirs: SimpleNamespace, dtype: torch.dtype = torch.float32) -> None:
    """Every tensor of every part is theirs, converted to ``dtype``."""
    for part in PARTS:
        ours, wanted = getattr(loaded, part).state_dict(), expected(theirs, part)
        assert ours.keys() == wanted.keys()
        different = [key for key in ours if not torch.equal(ours[key], wanted[key].to(dtype))]
        assert not different, different


def load_tensors(tensors: dict[str, Tensor], folder: Path) -> model.StableDiffusion:
    """What is loaded of a single file with these tensors, written into ``folder``."""
    path = folder / "changed.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return model.load(path)


def copy_folder(source: Path, target: Path) -> Path:
    """A copy whose files are links: replace them, never write into them."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes one."""
    raw = json.loads(path.read_text()) | changes
    path.unlink()
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Write a safetensors file again with what ``change`` makes of its tensors."""
    tensors = change({key: value.clone() for key, value in load_file(path).items()})
    path.unlink()
    save_file(tensors, path)


def rename(tensors: dict[str, Tensor], name: Callable[[str], str]) -> dict[str, Tensor]:
    """The same tensors under other names."""
    return {name(key): value for key, value in tensors.items()}


def refused(source: Path | str) -> str:
    """The message with which loading ``source`` is refused, which must be one line that names the source's file."""
    message = refusal(source)
    assert Path(source).name in message
    return message


def refusal(source: Path | str) -> str:
    """The message with which loading ``source`` is refused, one line, whatever it names."""
    with pytest.raises(model.CheckpointError) as caught:
        model.load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)
