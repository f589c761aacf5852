"""What people give by mistake, told apart by name: each other kind of model or file has its own one-line reason."""

from __future__ import annotations

from collections.abc import Collection
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
    predictions: tuple[str, ...] = ()  # what a single file's metadata or its scheduler say


# Looked through in this order.
KINDS = (
    Kind(
        "a LoRA, which only changes another model (give it as `lora`, and the model as `weights`)",
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
    Kind(
        "a v-prediction model (its UNet predicts velocity, not noise)",
        names=("v_pred",),
        predictions=("v", "v_prediction"),
    ),
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


def refuse_others(
    where: Path,
    *,
    names: Collection[str] = (),
    entries: Collection[str] = (),
    pipeline: object = None,
    context: object = None,
    channels: object = None,
    prediction: object = None,
) -> None:
    """Raise CheckpointError if what is known of the model at ``where`` gives it away as one of `KINDS`."""
    for kind in KINDS:
        if (
            any(piece in name for piece in kind.names for name in names)
            or any(entry in kind.entries for entry in entries)
            or (isinstance(pipeline, str) and pipeline.startswith(kind.pipelines))
            or context in kind.contexts
            or channels in kind.channels
            or prediction in kind.predictions
        ):
            raise CheckpointError(f"{where}: this is {kind.what}; {_SCOPE}")


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
