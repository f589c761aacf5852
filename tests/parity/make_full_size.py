"""Write a full-size Stable Diffusion 1.5 with random weights: by diffusers as a folder, and as a single file.

    python -m tests.parity.make_full_size DIRECTORY

needs 9 GB of disk and 6 GB of memory. The architecture is that of the published configuration files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

from safetensors.torch import save_file

from model.config import SD15
from tests.model.checkpoints import PARTS, expected, write_folder
from tests.model.originals import single_file_tensors


def full_size_modules(seed: int = 0) -> SimpleNamespace:
    """diffusers' and transformers' modules in float32, with the libraries' own random initialisation."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=768,
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            projection_dim=768,
        )
    )
    modules = SimpleNamespace(unet=unet, vae=vae, text_encoder=text)
    for part in PARTS:
        getattr(modules, part).eval().requires_grad_(False)
    return modules


def write_full_size(directory: Path, theirs: SimpleNamespace) -> tuple[Path, Path]:
    """Write both layouts under ``directory`` and return the folder and the single file."""
    folder = write_folder(directory / "folder", theirs)
    single = directory / "full-size.safetensors"
    save_file(single_file_tensors(SD15, {part: expected(theirs, part) for part in PARTS}), single)
    return folder, single


if __name__ == "__main__":
    print(*write_full_size(Path(sys.argv[1]), full_size_modules()), sep="\n")
