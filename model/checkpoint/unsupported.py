"""What people give by mistake, told apart by name: each other kind of model or file has its own one-line reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError
from model.files import SMALL, read_start

_SCOPE = "Stainloom runs Stable Diffusion 1.x only, such as stable-diffusion-v1-5/stable-diffusion-v1-5"


@dataclass(frozen=True)
class Kind:
    """Another kind of model, in words, and what gives it away."""

    what: str
    names: tuple[str, ...] = ()  # pieces of tensors' names
    entries: tuple[str, ...] = ()  # names in its folder
    pipelines: tuple[str, ...] = ()  # how its class begins in model_index.json
    contexts: tuple[int, ...] = ()  # the width of its UNet's context
    channels: tuple[int, ...] = ()  # the input channels of its UNet


V_PREDICTION = Kind("a v-prediction model (its UNet predicts velocity, not noise)", names=("v_pred",))

# Looked through in this order.
KINDS = (
    Kind(
        "a LoRA, which only changes another model (merge it into a full checkpoint first)",
        names=(".lora_", "_lora.", "lora_unet_", "lora_te"),
        entries=("adapter_config.json", "pytorch_lora_weights.safetensors"),
    ),
    Kind(
        "a diffusion transformer (such as Stable Diffusion 3 or Flux), not a UNet",
        names=("joint_blocks.", "double_blocks."),
        entries=("transformer",),
        pipelines=("StableDiffusion3", "Flux"),
    ),
    Kind(
        "Stable Diffusion XL (it has two text encoders)",
        names=("conditioner.embedders.",),
        entries=("text_encoder_2",),
        pipelines=("StableDiffusionXL",),
        contexts=(2048,),
    ),
    Kind("Stable Diffusion 2 (its text context is 1024 wide)", names=("cond_stage_model.model.",), contexts=(1024,)),
    Kind("a ControlNet, which only steers another model", names=("control_model.", "controlnet_")),
    Kind("a textual-inversion embedding, which only adds a word to another model", names=("emb_params",)),
    V_PREDICTION,
    Kind("an inpainting model (its UNet takes 9 channels: latents, mask and masked image)", channels=(9,)),
    Kind("InstructPix2Pix (its UNet takes 8 channels: latents and an image to edit)", channels=(8,)),
)

PICKLE_SUFFIXES = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl"})
_PICKLE = "which can run any code when it is read: give the model's .safetensors file instead"
_WEB_PAGE = "a web page, not weights: download the file itself"

# How a file begins that is no safetensors file, in small letters and without spaces before.
FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves: run `git lfs pull` in its folder"),
    (b"<!doctype", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
    (b"gguf", "a GGUF file: give the model's .safetensors file instead"),
    (b"pk\x03\x04", f"a pickle with another name, {_PICKLE}"),
)


def refusal(where: Path, kind: Kind) -> CheckpointError:
    """The error that says that the model at ``where`` is of another ``kind``, and what would do."""
    return CheckpointError(f"{where}: this is {kind.what}; {_SCOPE}")


def refuse(where: Path, is_it: Callable[[Kind], bool]) -> None:
    """Raise CheckpointError for the first kind of model that ``is_it``."""
    for kind in KINDS:
        if is_it(kind):
            raise refusal(where, kind)


def refuse_other_tensors(where: Path, keys: Collection[str], metadata: Mapping[str, str]) -> None:
    """Raise CheckpointError if the tensors' names in a single file are those of another kind of model."""
    refuse(where, lambda kind: any(name in key for name in kind.names for key in keys))
    if metadata.get("modelspec.prediction_type") == "v":
        raise refusal(where, V_PREDICTION)


def refuse_other_unet(where: Path, in_channels: object, cross_attention_dim: object) -> None:
    """Raise CheckpointError if a UNet's input channels or context width are those of another kind of model."""
    refuse(where, lambda kind: cross_attention_dim in kind.contexts or in_channels in kind.channels)


def refuse_other_format(path: Path) -> None:
    """Raise CheckpointError for a file that is a pickle by its name, or no safetensors file by its first bytes."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: a pickle, {_PICKLE}")
    head = read_start(path, 64)
    if not head:
        raise CheckpointError(f"{path}: the file is empty: download it again")
    for start, what in FORMATS:
        if head.lstrip().lower().startswith(start):
            raise CheckpointError(f"{path}: {what}")
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length > SMALL:
        raise CheckpointError(f"{path}: damaged (a header of {length} bytes): download it again")
    if head[8:9] != b"{" and head[0] == 0x80:
        raise CheckpointError(f"{path}: a pickle with another name, {_PICKLE}")
