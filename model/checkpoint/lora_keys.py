"""LoRA files: the names of what they change, in every layout in use, and the kinds that are refused by name.

Layouts: kohya's (``lora_unet_…``, ``lora_te_…``, with LoCon's convolutions), diffusers' and PEFT's (``unet.…lora_A``,
``unet.…lora.down``, ``text_encoder.…lora_linear_layer.down``), and diffusers' old attention processors
(``unet.….processor.to_q_lora.down``), also without ``unet.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from model.checkpoint.keys import unet_original
from model.checkpoint.tensors import CheckpointIndex
from model.clip import TextEncoder
from model.errors import CheckpointError
from model.unet import UNet

Role = Literal["down", "up", "alpha"]
Part = Literal["unet", "text_encoder"]

# How names end, and what the tensor is: the pair, whose product up·down is the change, or the number that scales it.
ENDINGS: Mapping[str, Role] = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora.alpha": "alpha",
    "_lora.alpha": "alpha",
    ".alpha": "alpha",
}
# The text encoder's attention as diffusers' old names have it.
TEXT_OLD = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


class Layer(NamedTuple):
    """A linear map or convolution of one of the networks, by our name."""

    part: Part
    module: str


@dataclass(frozen=True)
class Kind:
    """Another kind of file, in words, and what gives it away."""

    what: str
    names: str = "(?!)"  # a pattern that a tensor's name holds
    made_for: str = "(?!)"  # a pattern that the model named in the metadata holds
    context: int = 0  # the width of the text that attention looks at


# Looked through in this order.
KINDS = (
    Kind("a DoRA (it scales whole weights, too)", names=r"dora_scale|lora_magnitude_vector"),
    Kind("LoHa, of the LyCORIS family", names=r"\.hada_"),
    Kind("LoKr, of the LyCORIS family", names=r"\.lokr_"),
    Kind("OFT or BOFT, of the LyCORIS family", names=r"\.b?oft_|\.oft_?(diag|blocks)"),
    Kind("(IA)³, of the LyCORIS family", names=r"\.ia3_|\.on_input$"),
    Kind("GLoRA, of the LyCORIS family", names=r"\.[ab][12]\.weight$"),
    Kind("a LoCon in CP decomposition (with `lora_mid`)", names=r"\.lora_mid\."),
    Kind("a LyCORIS with whole differences of weights, biases or norms", names=r"\.(diff|diff_b|[wb]_norm)$"),
    Kind("a LoRA with biases", names=r"(lora_B|lora_up|lora\.up|lora_linear_layer\.up)\.bias$"),
    Kind("a LoRA with words of its own (textual inversion)", names=r"^bundle_emb\.|lora_embedding_|^emb_params$"),
    Kind("a LoRA of a ControlNet", names="controlnet|control_model"),
    Kind(
        "for a diffusion transformer (such as Stable Diffusion 3 or Flux)",
        names=r"(double|single|joint)_blocks|single_transformer_blocks|^transformer\.|^lora_transformer_",
        made_for="flux|stable-diffusion-3|sd3",
    ),
    Kind(
        "for Stable Diffusion XL",
        names=r"^lora_te2_|^text_encoder_2\.|add_embedding|label_emb|transformer_blocks[._][1-9]",
        made_for="sdxl|stable-diffusion-xl",
        context=2048,
    ),
    Kind("for Stable Diffusion 2", made_for="sd_v2|stable-diffusion-v2", context=1024),
    Kind(
        "PEFT's own layout, whose scale is in another file (save it by `save_lora_weights` of a diffusers pipeline)",
        names=r"^base_model\.model\.",
    ),
    Kind(
        "a whole model (give it as `weights`)", names=r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\."
    ),
)
MADE_FOR = ("modelspec.architecture", "ss_base_model_version")
_SCOPE = "only plain LoRA and LoCon for Stable Diffusion 1.x can be merged"


def refuse_other_kinds(index: CheckpointIndex) -> None:
    """Raise CheckpointError if the file's names, shapes or metadata give it away as one of `KINDS`."""
    made_for = " ".join(index.metadata.get(key, "") for key in MADE_FOR).lower()
    contexts = {
        entry.shape[1]
        for key, entry in index.entries.items()
        if re.search(r"attn2[._](processor\.)?to_[kv][._].*(down|lora_A)\.weight$", key) and len(entry.shape) > 1
    }
    for kind in KINDS:
        pattern = re.compile(kind.names)
        if kind.context in contexts or re.search(kind.made_for, made_for) or any(map(pattern.search, index.entries)):
            raise CheckpointError(f"{index.where}: this is {kind.what}; {_SCOPE}")
    if index.metadata.get("ss_v2", "").lower() == "true":
        raise CheckpointError(f"{index.where}: this is for Stable Diffusion 2; {_SCOPE}")


def layers_by_name(unet: UNet, text_encoder: TextEncoder) -> dict[str, Layer]:
    """Every linear map and convolution by each name that stands before one of `ENDINGS`."""
    original = {ours: theirs for theirs, ours in unet_original(unet.config, unet.state_dict()).items()}
    names: dict[str, Layer] = {}
    for module in _changeable(unet):
        layer = Layer("unet", module)
        names[f"lora_unet_{_joined(module)}"] = layer
        names[f"lora_unet_{_joined(original[f'{module}.weight'].removesuffix('.weight'))}"] = layer
        for name in (module, *_in_processor(module)):
            names[name] = names[f"unet.{name}"] = layer
    for module in _changeable(text_encoder):
        layer = Layer("text_encoder", module)
        for name in (module, f"text_model.{module}"):
            names[f"lora_te_{_joined(name)}"] = names[f"lora_te1_{_joined(name)}"] = layer
            place, _, last = name.rpartition(".")
            for each in (last, TEXT_OLD.get(last, last)):
                names[f"text_encoder.{place}.{each}"] = layer
    return names


def _changeable(network: nn.Module) -> Iterator[str]:
    return (name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))


def _joined(name: str) -> str:
    return name.replace(".", "_")


def _in_processor(module: str) -> Iterator[str]:
    """The names of an attention's projection in files that lay LoRAs into its processor."""
    found = re.fullmatch(r"(.*\.attn[12])\.(to_[qkv]|to_out)(\.0)?", module)
    if found is not None:
        yield f"{found[1]}.processor.{found[2]}"
        yield f"{found[1]}.{found[2]}"
