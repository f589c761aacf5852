"""The method in one function, in the order of docs/method.md, nothing saved: read this first.

It is the ``winter`` preset and its relatives with ``ddpm`` inversion, for one image. `sampler.denoise` does the same
with what is exact to save saved, and tests hold it to this, as they hold kernels to `kernels`' references.
"""

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


@torch.inference_mode()
def transfer(model: StableDiffusion, inputs: TransferInputs, settings: Settings, *, seed: int) -> Tensor:
    """The latents z_out [1, 4, h', w'] of the new image, in the type of the networks, on a CPU.

    ``settings`` with ``ddpm`` inversion without guidance, without fresh noise, without the extensions.
    """
    unet, vae, factor = model.unet, model.vae, model.config.vae.factor
    dtype, num_classes, schedule = next(unet.parameters()).dtype, inputs.num_classes, steps(settings.steps)
    context = model.text_encoder(model.tokenizer([settings.prompt])).to(dtype)
    noise = draw_noise(seed, inputs, settings, model.config.vae.latent_channels, factor)
    origin_labels = latent_labels(torch.from_numpy(inputs.origin_labels), num_classes, factor)
    target_labels = latent_labels(torch.from_numpy(inputs.target_labels), num_classes, factor)

    # Inversion: x_i of the origin and of the painted mask, each noised on its own; x_T is clean.
    def trajectory(image: Tensor, drawn: Tensor) -> list[Tensor]:
        clean = vae.encode(image.to(dtype))
        noisy = (add_noise(clean, n, step.alpha_bar) for n, step in zip(drawn.to(dtype), schedule, strict=True))
        return [*noisy, clean]

    origin = trajectory(to_unit_range(inputs.origin), noise.origin)
    structure = trajectory(noise.structure_image, noise.structure)

    # The structure's noise maps: w_i carries x_i to x_{i+1}; the last step takes none.
    maps: list[Tensor | None] = [None] * settings.steps
    for i, step in enumerate(schedule[:-1]):
        eps = unet(structure[i], step.t, context)
        mean = ddim_step(structure[i], eps, step.alpha_bar, step.alpha_bar_prev, step.sigma)
        maps[i] = (structure[i + 1] - mean) / step.sigma

    # Denoising: executed step j is step i of the schedule.
    z = structure[settings.start_step]
    for j, i in enumerate(range(settings.start_step, settings.steps)):
        step = schedule[i]
        cond = unet.condition(context, step.t)

        # 1 to 3: eps_self, and eps_cross with the keys and values of the image that is looked at.
        shown = structure[i] if settings.swaps_in_structure(j) else origin[i]
        features = unet(shown, cond, capture=settings.swapped_levels(j)).features
        eps_self = unet(z, cond).eps
        eps_cross = unet(z, cond, kv_source=KVSource(features, settings.contrast, "reference")).eps

        # 4: guidance, 5: the step, 6: the statistics of the classes whose turn it is.
        guidance = settings.swap_guidance(j)
        eps = eps_cross if guidance is None else eps_self + guidance * (eps_cross - eps_self)
        z = denoise_step(z, eps, step, maps[i])
        for c in settings.adain_classes(j, num_classes):
            labels = (target_labels, origin_labels)
            z = masked_adain(z, origin[i + 1], *labels, classes=(c,), num_classes=num_classes + 1, impl="reference")
    return z
