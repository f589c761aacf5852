"""How long the networks take one by one, ours beside diffusers', in turns in one process.

    python -m benchmarks networks                                  on a CPU: batch 1 at 512 px, minutes
    python -m benchmarks networks --batch 1 4 8 --size 512 768     on a GPU: compiled as well

Text-to-image is diffusers' own pipeline with DDIM and classifier-free guidance. On a GPU diffusers runs a second time,
optimised as its documentation says: channels-last layout, fused projections, compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from benchmarks.diffusers_modules import Theirs, from_ours
from benchmarks.options import Setting, cuda, model_parser, prepare
from benchmarks.timing import Outputs, Sides
from demo.export import scheduler_json
from sampler.series import Result
from sampler.text_to_image import text_to_image

PROMPT = "an immunohistochemistry image of epithelium and stroma"
TIMESTEP = 481
GUIDANCE = 7.5
OURS, THEIRS, COMPILED = "ours", "diffusers", "diffusers compiled"


def compiled(theirs: Theirs) -> Theirs:
    """The same networks optimised; they no longer share the convolutions' weights with ours."""
    theirs.lay_out_channels_last()
    theirs.unet.fuse_qkv_projections()
    theirs.vae.fuse_qkv_projections()
    for network in (theirs.unet, theirs.vae.encoder, theirs.vae.decoder):
        network.compile(fullgraph=True, dynamic=False)
    return theirs


def network_sides(setting: Setting, others: Mapping[str, Theirs], batch: int, size: int) -> dict[str, Sides]:
    """One forward of each network: latents [batch, 4, size / 8, size / 8], images [batch, 3, size, size]."""
    ours = setting.model
    z = _latents(setting, batch, size)
    t = torch.full((batch,), TIMESTEP, device=setting.device)
    context = ours.text_encoder(ours.tokenizer([PROMPT] * batch).to(setting.device)).to(setting.dtype)
    uniform = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = (2 * uniform - 1).to(setting.device, setting.dtype)

    def predict(theirs: Theirs) -> Outputs:
        return theirs.unet(z, t, encoder_hidden_states=context, return_dict=False)

    def encode(theirs: Theirs) -> Outputs:
        return (theirs.vae.encode(images).latent_dist.mode() * theirs.vae.config["scaling_factor"],)

    def decode(theirs: Theirs) -> Outputs:
        return (theirs.vae.decode(z / theirs.vae.config["scaling_factor"]).sample,)

    return {
        "unet": _sides(lambda: (ours.unet(z, t, context),), predict, others),
        "vae encode": _sides(lambda: (ours.vae.encode(images),), encode, others),
        "vae decode": _sides(lambda: (ours.vae.decode(z),), decode, others),
    }


def text_to_image_sides(setting: Setting, others: Mapping[str, Theirs], steps: int, size: int) -> Sides:
    """A whole image [size, size, 3] in ``steps`` steps, in 255 levels."""

    def ours() -> Outputs:
        run = partial(text_to_image, setting.model, PROMPT, seed=0, size=(size, size), count=steps, scale=GUIDANCE)
        *_, result = run(execution=setting.execution)
        assert isinstance(result, Result)
        return (torch.from_numpy(result.image).double(),)

    def pipeline(theirs: Theirs) -> Outputs:
        absent: Any = None
        pipe = StableDiffusionPipeline(
            vae=theirs.vae,
            text_encoder=theirs.text_encoder,
            tokenizer=absent,
            unet=theirs.unet,
            scheduler=DDIMScheduler.from_config(scheduler_json()),
            safety_checker=absent,
            feature_extractor=absent,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        image: Tensor = pipe(
            prompt_embeds=theirs.encode_text([PROMPT]),
            negative_prompt_embeds=theirs.encode_text([""]),
            latents=_latents(setting, 1, size),
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            output_type="pt",
        ).images
        return ((255 * image[0].float()).round().permute(1, 2, 0).double().cpu(),)

    return _sides(ours, pipeline, others)


def main() -> int:
    """Run the comparisons; 0 when every row was written."""
    says = "Time UNet, autoencoder and text-to-image, ours beside diffusers."
    parser = model_parser(says, rounds=20 if cuda() else 2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images at once (default: 1)")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="of the square images, px (default: 512)")
    parser.add_argument("--steps", type=int, default=2, help="of text-to-image, always one image (default: 2)")
    arguments = parser.parse_args()
    setting = prepare(arguments, "networks")
    others = {THEIRS: from_ours(setting.model)}
    if cuda():
        others[COMPILED] = compiled(from_ours(setting.model))
    setting.model.prepack()
    with torch.inference_mode():
        for batch, size in product(arguments.batch, arguments.size):
            for what, sides in network_sides(setting, others, batch, size).items():
                shape = {"batch": batch, "height": size, "width": size}
                setting.recorder.add(setting.compare(what, sides, shape, against=OURS)[0])
        for size in arguments.size:
            sides = text_to_image_sides(setting, others, arguments.steps, size)
            shape = {"steps": arguments.steps, "height": size, "width": size}
            # On a CPU the networks' own turns have warmed it up, which takes minutes.
            warm_ups = 1 if cuda() else 0
            rows, _ = setting.compare("text to image", sides, shape, against=OURS, warm_ups=warm_ups)
            setting.recorder.add(rows)
    return 0


def _latents(setting: Setting, batch: int, size: int) -> Tensor:
    """Standard normal, drawn on the CPU as our text-to-image draws it."""
    vae = setting.model.config.vae
    shape = (batch, vae.latent_channels, size // vae.factor, size // vae.factor)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device, setting.dtype)


def _sides(ours: Callable[[], Outputs], call: Callable[[Theirs], Outputs], others: Mapping[str, Theirs]) -> Sides:
    return {OURS: ours} | {name: partial(call, theirs) for name, theirs in others.items()}


if __name__ == "__main__":
    sys.exit(main())
