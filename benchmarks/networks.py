"""How long the networks take one by one, ours beside diffusers', in turns in one process.

    python -m benchmarks networks --batch 1 4 8 --size 512 768

Text-to-image is diffusers' own pipeline with DDIM and classifier-free guidance. On a GPU diffusers runs a second time,
optimised as its documentation says: channels-last layout, fused projections, compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from benchmarks.diffusers_modules import Theirs, from_ours
from benchmarks.options import cuda, parser_of, prepare_model
from benchmarks.timing import Call
from demo.export import scheduler_json
from model import StableDiffusion
from sampler.execution import Execution
from sampler.series import Result
from sampler.text_to_image import text_to_image

PROMPT = "an immunohistochemistry image of epithelium and stroma"
TIMESTEP = 481
GUIDANCE = 7.5
OURS, THEIRS, COMPILED = "ours", "diffusers", "diffusers compiled"


class Case(NamedTuple):
    """One thing that networks do, as ours do it and as others do."""

    ours: Callable[[], Tensor]
    theirs: Callable[[Theirs], Tensor]


def compiled(theirs: Theirs) -> Theirs:
    """The same networks optimised; they no longer share the convolutions' weights with ours."""
    theirs.lay_out_channels_last()
    theirs.unet.fuse_qkv_projections()
    theirs.vae.fuse_qkv_projections()
    for network in (theirs.unet, theirs.vae.encoder, theirs.vae.decoder):
        network.compile(fullgraph=True, dynamic=False)
    return theirs


def network_cases(ours: StableDiffusion, batch: int, size: int) -> dict[str, Case]:
    """One forward of each network: latents [batch, 4, size / 8, size / 8], images [batch, 3, size, size]."""
    z = _latents(ours, batch, size)
    t = torch.full((batch,), TIMESTEP, device=z.device)
    context = ours.text_encoder(ours.tokenizer([PROMPT] * batch).to(z.device)).to(z.dtype)
    uniform = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = (2 * uniform - 1).to(z)

    return {
        "unet": Case(
            lambda: ours.unet(z, t, context),
            lambda theirs: theirs.unet(z, t, encoder_hidden_states=context, return_dict=False)[0],
        ),
        "vae encode": Case(lambda: ours.vae.encode(images), lambda theirs: theirs.encode(images)),
        "vae decode": Case(lambda: ours.vae.decode(z), lambda theirs: theirs.decode(z)),
    }


def text_to_image_case(model: StableDiffusion, execution: Execution, steps: int, size: int) -> Case:
    """A whole image [size, size, 3] in ``steps`` steps, in 255 levels."""

    def ours() -> Tensor:
        square = (size, size)
        *_, result = text_to_image(model, PROMPT, seed=0, size=square, count=steps, scale=GUIDANCE, execution=execution)
        assert isinstance(result, Result)
        return torch.from_numpy(result.image).double()

    def pipeline(theirs: Theirs) -> Tensor:
        scheduler = DDIMScheduler.from_config(scheduler_json())
        # Without tokenizer, safety checker, feature extractor and image encoder, of which none is required.
        modules = (theirs.vae, theirs.text_encoder, None, theirs.unet, scheduler, None, None, None)
        pipeline_class: Any = StableDiffusionPipeline
        pipe = pipeline_class(*modules, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        image: Tensor = pipe(
            prompt_embeds=theirs.encode_text([PROMPT]),
            negative_prompt_embeds=theirs.encode_text([""]),
            latents=_latents(model, 1, size),
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            output_type="pt",
        ).images
        return (255 * image[0].float()).round().permute(1, 2, 0).double().cpu()

    return Case(ours, pipeline)


def main(arguments: Sequence[str]) -> int:
    """Run the comparisons; 0 when every row was written."""
    parser = parser_of("networks", rounds=20 if cuda() else 2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images at once (default: 1)")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="of the square images, px (default: 512)")
    parser.add_argument("--steps", type=int, default=2, help="of text-to-image, always one image (default: 2)")
    options = parser.parse_args(arguments)
    setting, model, execution = prepare_model(options)
    others = {THEIRS: from_ours(model)}
    if cuda():
        others[COMPILED] = compiled(from_ours(model))
    model.prepack()

    def compare(what: str, case: Case, shape: dict[str, int], warm_ups: int = 1) -> None:
        sides: dict[str, Call] = {OURS: case.ours}
        for name, each in others.items():
            sides[name] = partial(case.theirs, each)
        setting.recorder.add(setting.compare(what, sides, shape, against=OURS, warm_ups=warm_ups)[0])

    with torch.inference_mode():
        for batch, size in product(options.batch, options.size):
            for what, case in network_cases(model, batch, size).items():
                compare(what, case, {"batch": batch, "height": size, "width": size})
        for size in options.size:
            case = text_to_image_case(model, execution, options.steps, size)
            # On a CPU the networks' own turns have warmed it up, which takes minutes.
            warm_ups = 1 if cuda() else 0
            compare("text to image", case, {"steps": options.steps, "height": size, "width": size}, warm_ups)
    return 0


def _latents(model: StableDiffusion, batch: int, size: int) -> Tensor:
    """Standard normal, drawn on the CPU as our text-to-image draws it."""
    vae, parameter = model.config.vae, next(model.unet.parameters())
    shape = (batch, vae.latent_channels, size // vae.factor, size // vae.factor)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
