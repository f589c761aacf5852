"""The names that published files give to the parameters, as literal tables.

The networks use diffusers' present names. "Original" is the layout of single-file checkpoints (CompVis).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from model.config import UNetConfig, VAEConfig

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."
EMA_PREFIX = "model_ema."

UNET_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_OUTER = {
    "quant_conv": "quant_conv",
    "post_quant_conv": "post_quant_conv",
    "encoder.conv_in": "encoder.conv_in",
    "encoder.norm_out": "encoder.conv_norm_out",
    "encoder.conv_out": "encoder.conv_out",
    "decoder.conv_in": "decoder.conv_in",
    "decoder.norm_out": "decoder.conv_norm_out",
    "decoder.conv_out": "decoder.conv_out",
}
VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
VAE_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Single files that were made of diffusers' files carry these, its present and its old names, inside ``mid.attn_1``:
# the published conversion scripts rename one of the two and pass the other through.
VAE_ORIGINAL_ATTENTION_ALSO = {
    **{name: name for name in VAE_ATTENTION.values()},
    **VAE_OLD_ATTENTION,
    "to_out": "to_out.0",
}

TEXT_IGNORED = frozenset({"embeddings.position_ids", "text_model.embeddings.position_ids"})

SINGLE_FILE_IGNORED = frozenset(
    {
        *(TEXT_PREFIX + name for name in TEXT_IGNORED),
        "cond_stage_model.logit_scale",
        "cond_stage_model.text_projection",
        "cond_stage_model.transformer.logit_scale",
        "cond_stage_model.transformer.text_projection.weight",
        "model_ema.decay",
        "model_ema.num_updates",
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "lvlb_weights",
        "logvar",
        "ddim_sigmas",
        "ddim_alphas",
        "ddim_alphas_prev",
        "ddim_sqrt_one_minus_alphas",
        "denoiser.sigmas",
    }
)

# What training leaves behind beside the networks: the autoencoder's discriminator and perceptual loss, its moving
# average (of which no published model says that it is the better one), and textual inversion's words with, at times,
# a second copy of the text encoder.
SINGLE_FILE_CLUTTER = ("first_stage_model.loss.", "first_stage_model.model_ema.", "embedding_manager.")


def unet_original(config: UNetConfig, parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.unet.UNet` by their original names, without prefix."""
    modules = dict(UNET_OUTER)
    for number in range(2):
        _add_resnet(modules, f"middle_block.{2 * number}", f"mid_block.resnets.{number}", UNET_RESNET)
    block = 1
    for level in range(config.levels):
        for layer in range(config.layers_per_block):
            _add_resnet(modules, f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}", UNET_RESNET)
            modules[f"input_blocks.{block}.1"] = f"down_blocks.{level}.attentions.{layer}"
            block += 1
        modules[f"input_blocks.{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        block += 1
    block = 0
    for number, level in enumerate(reversed(range(config.levels))):
        for layer in range(config.layers_per_block + 1):
            _add_resnet(modules, f"output_blocks.{block}.0", f"up_blocks.{number}.resnets.{layer}", UNET_RESNET)
            if config.attention[level]:
                modules[f"output_blocks.{block}.1"] = f"up_blocks.{number}.attentions.{layer}"
            block += 1
        place = 2 if config.attention[level] else 1
        modules[f"output_blocks.{block - 1}.{place}.conv"] = f"up_blocks.{number}.upsamplers.0.conv"
    return _expand(modules, parameters)


def vae_original(config: VAEConfig, parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.vae.VAE` by their original names, without prefix; one name for each."""
    modules = dict(VAE_OUTER)
    levels = len(config.block_out_channels)
    for side in ("encoder", "decoder"):
        for number in range(2):
            original = f"{side}.mid.block_{number + 1}"
            _add_resnet(modules, original, f"{side}.mid_block.resnets.{number}", VAE_RESNET)
        for theirs, ours in VAE_ATTENTION.items():
            modules[f"{side}.mid.attn_1.{theirs}"] = f"{side}.mid_block.attentions.0.{ours}"
    for level in range(levels):
        up = levels - 1 - level
        for layer in range(config.layers_per_block):
            original = f"encoder.down.{level}.block.{layer}"
            _add_resnet(modules, original, f"encoder.down_blocks.{level}.resnets.{layer}", VAE_RESNET)
        for layer in range(config.layers_per_block + 1):
            original = f"decoder.up.{level}.block.{layer}"
            _add_resnet(modules, original, f"decoder.up_blocks.{up}.resnets.{layer}", VAE_RESNET)
        modules[f"encoder.down.{level}.downsample.conv"] = f"encoder.down_blocks.{level}.downsamplers.0.conv"
        modules[f"decoder.up.{level}.upsample.conv"] = f"decoder.up_blocks.{up}.upsamplers.0.conv"
    return _expand(modules, parameters)


def vae_single_file(config: VAEConfig, parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.vae.VAE` by every name that they have in single files, without prefix."""
    names = vae_original(config, parameters)
    for name in list(names.values()):
        side, middle, rest = name.partition(".mid_block.attentions.0.")
        if middle:
            module, _, kind = rest.rpartition(".")
            for theirs, ours in VAE_ORIGINAL_ATTENTION_ALSO.items():
                if ours == module:
                    names[f"{side}.mid.attn_1.{theirs}.{kind}"] = name
    return names


def vae_folder(parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.vae.VAE` by the names in diffusers files, present and old ones."""
    names = {}
    for name in parameters:
        names[name] = name
        for old, new in VAE_OLD_ATTENTION.items():
            if f".attentions.0.{new}." in name:
                names[name.replace(f".{new}.", f".{old}.")] = name
    return names


def text_folder(parameters: Iterable[str]) -> dict[str, str]:
    """``parameters`` of a `model.clip.TextEncoder` by the names in transformers files, with prefix and without."""
    names = list(parameters)
    return {f"text_model.{name}": name for name in names} | {name: name for name in names}


def ema_name(original: str) -> str:
    """The name of the moving average of UNet parameter ``original`` (without prefix) in a single file."""
    return EMA_PREFIX + f"diffusion_model.{original}".replace(".", "")


def _add_resnet(modules: dict[str, str], original: str, name: str, inner: Mapping[str, str]) -> None:
    for theirs, ours in inner.items():
        modules[f"{original}.{theirs}"] = f"{name}.{ours}"


def _expand(modules: Mapping[str, str], parameters: Iterable[str]) -> dict[str, str]:
    originals = {name: original for original, name in modules.items()}
    names = {}
    for parameter in parameters:
        module = parameter
        while module not in originals:
            module = module.rpartition(".")[0]
            if not module:
                raise KeyError(f"{parameter} has no original name")
        names[originals[module] + parameter.removeprefix(module)] = parameter
    return names
