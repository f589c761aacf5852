"""LoRA files with random pairs for every layer, in the layouts that trainers write, by rules of their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

RANK = 4
Pairs = dict[tuple[str, str], tuple[Tensor, Tensor]]
"""Down and up by part and by our name of the layer."""


def random_pairs(theirs: SimpleNamespace, seed: int = 0, *, only: str = "", rank: int = RANK) -> Pairs:
    """A pair for each linear map and convolution of UNet and text encoder whose name holds ``only``."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    pairs: Pairs = {}
    for part in ("unet", "text_encoder"):
        for name, module in getattr(theirs, part).named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and only in name:
                out, *shape = module.weight.shape
                up = randn(out, rank, 1, 1) if len(shape) == 3 else randn(out, rank)
                pairs[part, name.removeprefix("text_model.")] = (randn(rank, *shape), up)
    return pairs


def kohya(pairs: Pairs, alphas: Mapping[str, float] | float | None = None, text: str = "lora_te_text_model_") -> dict:
    """As kohya's scripts name them. ``alphas`` are by part, or one for all."""
    found = {}
    for (part, name), (down, up) in pairs.items():
        start = ("lora_unet_" if part == "unet" else text) + name.replace(".", "_")
        found |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up}
        if alphas is not None:
            found[f"{start}.alpha"] = torch.tensor(float(alphas[part] if isinstance(alphas, Mapping) else alphas))
    return found


def peft(pairs: Pairs, text: str = "text_encoder.") -> dict:
    """As diffusers saves what PEFT trains."""
    found = {}
    for (part, name), (down, up) in pairs.items():
        start = f"unet.{name}" if part == "unet" else text + name
        found |= {f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up}
    return found


def diffusers(pairs: Pairs) -> dict:
    """As diffusers named them between its old and its present names."""
    found = {}
    for (part, name), (down, up) in pairs.items():
        start = f"unet.{name}.lora" if part == "unet" else f"text_encoder.text_model.{name}.lora_linear_layer"
        found |= {f"{start}.down.weight": down, f"{start}.up.weight": up}
    return found


def old_diffusers(pairs: Pairs, prefix: str = "unet.") -> dict:
    """As diffusers' attention processors named them: attention alone."""
    projections = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    found = {}
    for (part, name), (down, up) in pairs.items():
        if part == "unet" and re.search(r"attn[12]\.", name):
            place, _, last = name.removesuffix(".0").rpartition(".")
            start = f"{prefix}{place}.processor.{last}_lora"
        elif "self_attn" in name:
            place, _, last = name.rpartition(".")
            start = f"text_encoder.text_model.{place}.{projections[last]}_lora"
        else:
            continue
        found |= {f"{start}.down.weight": down, f"{start}.up.weight": up}
    return found


LAYOUTS = {"kohya": kohya, "peft": peft, "diffusers": diffusers, "old diffusers": old_diffusers}


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A LoRA file."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=metadata)
    return path


def fused(theirs: SimpleNamespace, *files: tuple[Path, float], in_place: bool = False) -> SimpleNamespace:
    """Copies of their modules, or these themselves, into which diffusers has merged LoRA files, one after the other."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    made = StableDiffusionPipeline(
        vae=theirs.vae,
        text_encoder=theirs.text_encoder if in_place else copy.deepcopy(theirs.text_encoder),
        unet=theirs.unet if in_place else copy.deepcopy(theirs.unet),
        tokenizer=None,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for path, weight in files:
        made.load_lora_weights(str(path.parent), weight_name=path.name)
        made.fuse_lora(lora_scale=weight)
        made.unload_lora_weights()
    return SimpleNamespace(unet=made.unet, vae=made.vae, text_encoder=made.text_encoder)


def assert_as_fused(
    ours: Mapping[str, Tensor], fused: Mapping[str, Tensor], before: Callable[[str], Tensor], rank: int
) -> int:
    """Every weight is diffusers', to what its float32 sums of ``rank`` products and its own rounding come to.

    ``before`` gives a weight without LoRAs. Returns how many differ from that.
    """
    assert ours.keys() == fused.keys()
    changed = 0
    for name, value in ours.items():
        plain = before(name)
        error = (value.double() - fused[name].double()).abs().max().item()
        size = (plain.abs().max() + (fused[name] - plain).abs().max()).item()
        assert error <= (rank + 4) * torch.finfo(torch.float32).eps * size, f"{name}: {error:.2e} of {size:.2e}"
        assert torch.equal(value, plain) == torch.equal(fused[name], plain), name
        changed += not torch.equal(value, plain)
    return changed
