"""A field in windows, written out plainly with nothing saved: what `sampler.field_denoising` must come to."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import masked_adain
from model import StableDiffusion
from model.unet_blocks import KVSource
from sampler.ddim import add_noise, ddim_step, denoise_step
from sampler.inputs import TransferInputs, draw_noise, to_unit_range
from sampler.masks import latent_labels
from sampler.schedule import steps
from sampler.settings import Settings

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in latent positions."""


def joined(boxes: list[Box], like: Tensor, predict) -> Tensor:
    """The mean of ``predict(box)`` over the windows of each position, weighed by the distance from a window's edge."""
    total, weight = torch.zeros_like(like), torch.zeros_like(like)
    for top, left, bottom, right in boxes:
        down = torch.tensor([min(r - top + 1, bottom - r) for r in range(top, bottom)], dtype=like.dtype)
        across = torch.tensor([min(c - left + 1, right - c) for c in range(left, right)], dtype=like.dtype)
        share = down[:, None] * across
        total[..., top:bottom, left:right] += share * predict((top, left, bottom, right))
        weight[..., top:bottom, left:right] += share
    return total / weight


@torch.inference_mode()
def transfer_in_windows(
    model: StableDiffusion, inputs: TransferInputs, settings: Settings, boxes: list[Box], *, seed: int
) -> Tensor:
    """As `sampler.reference.transfer`, every prediction for the target joined from those of ``boxes``."""
    unet, vae, factor = model.unet, model.vae, model.config.vae.factor
    dtype, schedule, classes = next(unet.parameters()).dtype, steps(settings.steps), inputs.num_classes
    context = model.text_encoder(model.tokenizer([settings.prompt])).to(dtype)
    noise = draw_noise(seed, inputs, settings, model.config.vae.latent_channels, factor)
    maps_of = (inputs.target_labels, inputs.origin_labels)
    labels = [latent_labels(torch.from_numpy(each), classes, factor) for each in maps_of]

    def trajectory(image: Tensor, drawn: Tensor) -> list[Tensor]:
        clean = vae.encode(image.to(dtype))
        return [*(add_noise(clean, n, s.alpha_bar) for n, s in zip(drawn.to(dtype), schedule, strict=True)), clean]

    def cut(field: Tensor, box: Box) -> Tensor:
        return field[..., box[0] : box[2], box[1] : box[3]]

    origin, structure = trajectory(to_unit_range(inputs.origin), noise.origin), trajectory(*structure_of(noise))
    z = structure[settings.start_step]
    for j, i in enumerate(range(settings.start_step, settings.steps)):
        step, guidance = schedule[i], settings.swap_guidance(j)
        cond = unet.condition(context, step.t)

        def predict(box: Box, z=z, i=i, j=j, cond=cond, guidance=guidance) -> Tensor:
            shown = cut(structure[i], box) if settings.swaps_in_structure(j) else origin[i]
            features = unet(shown, cond, capture=settings.swapped_levels(j)).features
            eps_self = unet(cut(z, box), cond).eps
            eps_cross = unet(cut(z, box), cond, kv_source=KVSource(features, settings.contrast, "reference")).eps
            return eps_cross if guidance is None else eps_self + guidance * (eps_cross - eps_self)

        w = None
        if i < settings.steps - 1:
            eps = joined(boxes, z, lambda box, i=i, cond=cond: unet(cut(structure[i], box), cond).eps)
            mean = ddim_step(structure[i], eps, step.alpha_bar, step.alpha_bar_prev, step.sigma)
            w = (structure[i + 1] - mean) / step.sigma
        z = denoise_step(z, joined(boxes, z, predict), step, w)
        for c in settings.adain_classes(j, classes):
            z = masked_adain(z, origin[i + 1], *labels, classes=(c,), num_classes=classes + 1, impl="reference")
    return z


def structure_of(noise) -> tuple[Tensor, Tensor]:
    """The painted mask, and the noise of its trajectory."""
    return noise.structure_image, noise.structure
