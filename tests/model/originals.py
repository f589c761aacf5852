"""diffusers' names to CompVis' original ones, by rules of its own: the other direction than the loader's tables."""

from __future__ import annotations

import re

from torch import Tensor

from model.config import ModelConfig

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}


def unet_name(name: str, *, attention: tuple[bool, ...] = (True, True, True, False), layers: int = 2) -> str:
    """The original name, without prefix, of a UNet parameter."""
    name = re.sub(r"(resnets\.\d+\.)(\w+)\.", lambda found: f"{found[1]}{_RESNET[found[2]]}.", name, count=1)
    for ours, original in _FIXED.items():
        if name.startswith(f"{ours}."):
            return original + name.removeprefix(ours)
    way, block, kind, number, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    ).groups()
    block, number = int(block), int(number)
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        place = 2 if attention[len(attention) - 1 - block] else 1
        return f"output_blocks.{block * (layers + 1) + layers}.{place}.{rest}"
    start = 1 + block * (layers + 1) if way == "down" else block * (layers + 1)
    return f"{'in' if way == 'down' else 'out'}put_blocks.{start + number}.{int(kind == 'attentions')}.{rest}"


def vae_name(name: str, *, levels: int = 4) -> str:
    """The original name, without prefix, of a VAE parameter."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(
        r"mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)",
        lambda found: f"mid.attn_1.{_ATTENTION[found[1]]}",
        name,
    )
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def single_file_tensors(config: ModelConfig, parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Everything that a published single file holds, made of the parts' tensors by diffusers' names."""
    import torch

    tensors = {}
    for name, value in parts["unet"].items():
        original = unet_name(name, attention=config.unet.attention, layers=config.unet.layers_per_block)
        tensors[f"model.diffusion_model.{original}"] = value
    for name, value in parts["vae"].items():
        original = vae_name(name, levels=len(config.vae.block_out_channels))
        convolution = ".attn_1." in original and value.ndim == 2
        tensors[f"first_stage_model.{original}"] = value[:, :, None, None] if convolution else value
    for name, value in parts["text_encoder"].items():
        tensors[f"cond_stage_model.transformer.text_model.{name}"] = value
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return {key: value.contiguous() for key, value in tensors.items()}
