"""Plain text-to-image: DDIM with classifier-free guidance, to see that weights are right."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from model import StableDiffusion
from sampler.conditioned_unet import CFGDenoiser
from sampler.ddim import denoise_step
from sampler.execution import Execution
from sampler.prepare import under_text
from sampler.progress import Progress
from sampler.schedule import steps
from sampler.series import Result, check_finite, decode


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
    NotFiniteError where values leave the type's range.
    Sources: Song et al., arXiv 2010.02502 (eta = 0); Ho and Salimans, arXiv 2207.12598.
    """
    parameter = next(model.unet.parameters())
    factor = model.config.vae.factor
    shape = (1, model.config.vae.latent_channels, size[0] // factor, size[1] // factor)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(parameter.device)
    schedule = [step.deterministic() for step in steps(count)]
    text, empty = (under_text(model, words, schedule, execution) for words in (prompt, ""))
    denoiser = CFGDenoiser(text, empty, scale)
    finite = [z.isfinite().all()]
    for done, step in enumerate(schedule, start=1):
        z = denoise_step(z, denoiser(z, step.t).eps, step, None)
        finite.append(z.isfinite().all())
        yield Progress("denoise", done, count)
    check_finite(finite, parameter.dtype)
    yield Progress("decode", 0, 1)
    image = decode(model, z, execution.impl)
    yield Progress("decode", 1, 1)
    yield Result(image, z.cpu())
