"""The names that published files give to the parameters, and those that they hold beside them.

The networks use diffusers' present names. "Original" is the layout of single-file checkpoints (CompVis).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from model.config import UNetConfig, VAEConfig

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."

# Where our modules stand in original files; those of each level are added by `unet_original` and `vae_original`.
UNET_PLACES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_PLACES = {
    f"{side}.{ours}": f"{side}.{theirs}"
    for side in ("encoder", "decoder")
    for ours, theirs in {
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.attentions.0": "mid.attn_1",
        "mid_block.resnets.1": "mid.block_2",
        "conv_norm_out": "norm_out",
    }.items()
}
# What the modules inside of those are called, by each name that they have.
UNET_INNER = {
    "norm1": ("in_layers.0",),
    "conv1": ("in_layers.2",),
    "time_emb_proj": ("emb_layers.1",),
    "norm2": ("out_layers.0",),
    "conv2": ("out_layers.3",),
    "conv_shortcut": ("skip_connection",),
}
# Single files that were made of diffusers' files carry its present and its old names, too: the published conversion
# scripts rename one of the two and pass the other through. Its old one comes last.
VAE_INNER = {
    "conv_shortcut": ("nin_shortcut",),
    "group_norm": ("norm", "group_norm"),
    "to_q": ("q", "to_q", "query"),
    "to_k": ("k", "to_k", "key"),
    "to_v": ("v", "to_v", "value"),
    "to_out.0": ("proj_out", "to_out.0", "to_out", "proj_attn"),
}
VAE_FOLDER_PLACES = {place: place for place in VAE_PLACES if "attentions" in place}
VAE_FOLDER_INNER = {ours: (ours, names[-1]) for ours, names in VAE_INNER.items()}

TEXT_IGNORED = frozenset({"embeddings.position_ids", "text_model.embeddings.position_ids"})
SINGLE_FILE_IGNORED = frozenset(
    {
        *(TEXT_PREFIX + name for name in (*TEXT_IGNORED, "logit_scale", "text_projection.weight")),
        *("cond_stage_model.logit_scale", "cond_stage_model.text_projection"),
        *("model_ema.decay", "model_ema.num_updates", "denoiser.sigmas", "logvar", "lvlb_weights"),
        *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
        *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
        *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
        *("ddim_sigmas", "ddim_alphas", "ddim_alphas_prev", "ddim_sqrt_one_minus_alphas"),
    }
)
# What training leaves behind beside the networks: the autoencoder's discriminator and perceptual loss, its moving
# average (of which no published model says that it is the better one), and textual inversion's words with, at times,
# a second copy of the text encoder.
SINGLE_FILE_CLUTTER = ("first_stage_model.loss.", "first_stage_model.model_ema.", "embedding_manager.")


def unet_original(config: UNetConfig, parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.unet.UNet` by their original names, without prefix."""
    places, layers = dict(UNET_PLACES), config.layers_per_block
    for level in range(config.levels):
        first = 1 + level * (layers + 1)  # of the original blocks, which hold one layer or downsampler each
        for layer in range(layers):
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{first + layer}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{first + layer}.1"
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
    for up, attention in enumerate(reversed(config.attention)):
        first = up * (layers + 1)
        for layer in range(layers + 1):
            places[f"up_blocks.{up}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            places[f"up_blocks.{up}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        places[f"up_blocks.{up}.upsamplers.0"] = f"output_blocks.{first + layers}.{2 if attention else 1}"
    return _names(parameters, places, UNET_INNER)


def vae_original(config: VAEConfig, parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.vae.VAE` by every name that they have in single files, without prefix."""
    places, levels = dict(VAE_PLACES), len(config.block_out_channels)
    for level in range(levels):
        up = levels - 1 - level
        for layer in range(config.layers_per_block + 1):
            places[f"encoder.down_blocks.{level}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
            places[f"decoder.up_blocks.{up}.resnets.{layer}"] = f"decoder.up.{level}.block.{layer}"
        places[f"encoder.down_blocks.{level}.downsamplers.0"] = f"encoder.down.{level}.downsample"
        places[f"decoder.up_blocks.{up}.upsamplers.0"] = f"decoder.up.{level}.upsample"
    return _names(parameters, places, VAE_INNER)


def vae_folder(parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.vae.VAE` by the names in diffusers files, present and old ones."""
    return _names(parameters, VAE_FOLDER_PLACES, VAE_FOLDER_INNER)


def text_folder(parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.clip.TextEncoder` by the names in transformers files, with prefix and without."""
    names = list(parameters)
    return {f"text_model.{name}": name for name in names} | {name: name for name in names}


def ema_name(original: str) -> str:
    """The name of the moving average of UNet parameter ``original`` (without prefix) in a single file."""
    return "model_ema." + f"diffusion_model.{original}".replace(".", "")


def _names(
    parameters: Iterable[str], places: Mapping[str, str], inner: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """``parameters`` by each of their names in files; those outside of ``places`` keep their own."""
    names = {}
    for parameter in parameters:
        place = next((place for place in places if parameter.startswith(f"{place}.")), None)
        if place is None:
            names[parameter] = parameter
            continue
        module, _, kind = parameter.removeprefix(f"{place}.").rpartition(".")
        for theirs in inner.get(module, (module,)):
            names[f"{places[place]}.{theirs}.{kind}" if theirs else f"{places[place]}.{kind}"] = parameter
    return names
