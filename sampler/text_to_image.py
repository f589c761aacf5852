"""Plain text-to-image: DDIM with classifier-free guidance, to see that weights are right."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from model import StableDiffusion
from sampler.conditioned_unet import CFGDenoiser
from sampler.ddim import denoise_step
from sampler.execution import Execution
from sampler.inputs import to_pixels
from sampler.prepare import condition
from sampler.schedule import steps
from sampler.series import Progress, Result, check_finite, not_finite


@torch.inference_mode()
def text_to_image(
    model: StableDiffusion,
    prompt: str,
    *,
    seed: int,
    size: tuple[int, int],
    count: int,
    scale: float,
    execution: Execution,
) -> Iterator[Progress | Result]:
    """Sample one image of ``size`` (height, width, multiples of 64 px) in ``count`` steps at guidance ``scale``.

    The starting noise is drawn on the CPU from ``seed``. Raises ValueError for a bad size or number of steps,
    InputError where values leave the type's range.
    Sources: Song et al., arXiv 2010.02502 (eta = 0); Ho and Salimans, arXiv 2207.12598.
    """
    parameter = next(model.unet.parameters())
    factor = model.config.vae.factor
    shape = (1, model.config.vae.latent_channels, size[0] // factor, size[1] // factor)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(parameter.device)
    schedule = [step.deterministic() for step in steps(count)]
    text, empty = (condition(model, words, schedule, execution) for words in (prompt, ""))
    denoiser = CFGDenoiser(text, empty, scale)
    finite = [z.isfinite().all()]
    for done, step in enumerate(schedule, start=1):
        z = denoise_step(z, denoiser(z, step.t), step, None)
        finite.append(z.isfinite().all())
        yield Progress("denoise", done, count)
    check_finite(finite, parameter.dtype)
    decoded = model.vae.decode(z.to(parameter.dtype), impl=execution.elementwise)
    if not bool(decoded.isfinite().all()):
        raise not_finite("decoding", parameter.dtype)
    image = to_pixels(decoded)
    yield Progress("decode", 1, 1)
    yield Result(image, z.cpu())
