"""What people give by mistake, told apart by name: each other kind of model has its own one-line reason."""

from __future__ import annotations

from pathlib import Path

from model.checkpoint.safetensors import CheckpointIndex
from model.errors import CheckpointError

_SCOPE = "Stainloom runs Stable Diffusion 1.x only, such as stable-diffusion-v1-5/stable-diffusion-v1-5"

INPAINTING_CHANNELS = 9
INSTRUCT_CHANNELS = 8
SD2_CONTEXT = 1024
SDXL_CONTEXT = 2048

SD2 = "Stable Diffusion 2 (its text context is 1024 wide)"
SDXL = "Stable Diffusion XL (it has two text encoders)"
SD3 = "Stable Diffusion 3 (a diffusion transformer with joint blocks, not a UNet)"
FLUX = "Flux (a diffusion transformer with double blocks, not a UNet)"
TRANSFORMER = "a diffusion transformer (such as Stable Diffusion 3 or Flux), not a UNet"
INPAINTING = "an inpainting model (its UNet takes 9 channels: latents, mask and masked image)"
INSTRUCT = "InstructPix2Pix (its UNet takes 8 channels: latents and an image to edit)"
V_PREDICTION = "a v-prediction model (its UNet predicts velocity, not noise)"
LORA = "a LoRA, which only changes another model (merge it into a full checkpoint first)"
CONTROL = "a ControlNet, which only steers another model"
EMBEDDING = "a textual-inversion embedding, which only adds a word to another model"
ONLY_UNET = "a UNet alone, without text encoder and VAE (give the whole folder or a full checkpoint)"
ONLY_VAE = "a VAE alone, without UNet and text encoder (give the whole folder or a full checkpoint)"
ONLY_TEXT = "a text encoder alone, without UNet and VAE (give the whole folder or a full checkpoint)"

# Looked for in this order: a piece of a tensor's name, and what a file with such a name is.
MARKS = (
    (".lora_", LORA),
    ("_lora.", LORA),
    ("lora_unet_", LORA),
    ("lora_te", LORA),
    ("conditioner.embedders.", SDXL),
    ("joint_blocks.", SD3),
    ("double_blocks.", FLUX),
    ("cond_stage_model.model.", SD2),
    ("control_model.", CONTROL),
    ("controlnet_", CONTROL),
    ("emb_params", EMBEDDING),
    ("v_pred", V_PREDICTION),
)

# The beginnings of names that a whole single file does not have.
ALONE = (
    ("down_blocks.", ONLY_UNET),
    ("input_blocks.", ONLY_UNET),
    ("encoder.down", ONLY_VAE),
    ("decoder.up", ONLY_VAE),
    ("text_model.", ONLY_TEXT),
    ("embeddings.", ONLY_TEXT),
)

# The beginnings of a pipeline's class name in model_index.json.
PIPELINES = (
    ("StableDiffusionXL", SDXL),
    ("StableDiffusion3", SD3),
    ("Flux", FLUX),
)


def refusal(where: Path | str, what: str) -> CheckpointError:
    """The error that says that the model at ``where`` is ``what``, and what would do."""
    return CheckpointError(f"{where}: this is {what}; {_SCOPE}")


def refuse_other_tensors(table: CheckpointIndex) -> None:
    """Raise CheckpointError if the names in a single file are those of another kind of model."""
    for mark, what in MARKS:
        if any(mark in key for key in table.entries):
            raise refusal(table.where, what)
    if table.metadata.get("modelspec.prediction_type") == "v":
        raise refusal(table.where, V_PREDICTION)
    if not any(key.startswith(("model.diffusion_model.", "first_stage_model.")) for key in table.entries):
        for start, what in ALONE:
            if any(key.startswith(start) for key in table.entries):
                raise refusal(table.where, what)


def refuse_other_unet(where: Path, in_channels: int, cross_attention_dim: int) -> None:
    """Raise CheckpointError if a UNet's input channels or context width are those of another kind of model."""
    if cross_attention_dim == SD2_CONTEXT:
        raise refusal(where, SD2)
    if cross_attention_dim == SDXL_CONTEXT:
        raise refusal(where, SDXL)
    if in_channels == INPAINTING_CHANNELS:
        raise refusal(where, INPAINTING)
    if in_channels == INSTRUCT_CHANNELS:
        raise refusal(where, INSTRUCT)
