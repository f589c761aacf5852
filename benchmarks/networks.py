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

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from benchmarks.diffusers_modules import Theirs, from_ours
from benchmarks.options import Setting, common_parser, prepare
from benchmarks.record import append, surroundings
from benchmarks.turns import Outputs, as_row, take_turns
from sampler.series import Result
from sampler.text_to_image import text_to_image

Sides = dict[str, Callable[[], Outputs]]

PROMPT = "an immunohistochemistry image of epithelium and stroma"
TIMESTEP = 481
GUIDANCE = 7.5
OURS, THEIRS, COMPILED = "ours", "diffusers", "diffusers compiled"


def compiled(theirs: Theirs) -> Theirs:
    """The same networks optimised; they no longer share the convolutions' weights with ours."""
    theirs.lay_out_channels_last()
    theirs.unet.fuse_qkv_projections()
    theirs.vae.fuse_qkv_projections()
    theirs.unet.compile(fullgraph=True, dynamic=False)
    theirs.vae.encoder.compile(fullgraph=True, dynamic=False)
    theirs.vae.decoder.compile(fullgraph=True, dynamic=False)
    return theirs


def unet_sides(setting: Setting, others: Mapping[str, Theirs], batch: int, size: int) -> Sides:
    """One forward: latents [batch, 4, size / 8, size / 8]."""
    ours = setting.model
    z = _latents(setting, batch, size)
    t = torch.full((batch,), TIMESTEP, device=setting.device)
    context = ours.text_encoder(ours.tokenizer([PROMPT] * batch).to(setting.device)).to(setting.dtype)

    def forward(theirs: Theirs) -> Outputs:
        return theirs.unet(z, t, encoder_hidden_states=context, return_dict=False)

    return {OURS: lambda: (ours.unet(z, t, context),)} | _each(others, forward)


def encode_sides(setting: Setting, others: Mapping[str, Theirs], batch: int, size: int) -> Sides:
    """Images [batch, 3, size, size] to latents."""
    ours = setting.model
    generator = torch.Generator().manual_seed(0)
    images = (2 * torch.rand(batch, 3, size, size, generator=generator) - 1).to(setting.device, setting.dtype)

    def encode(theirs: Theirs) -> Outputs:
        return (theirs.vae.encode(images).latent_dist.mode() * theirs.vae.config["scaling_factor"],)

    return {OURS: lambda: (ours.vae.encode(images),)} | _each(others, encode)


def decode_sides(setting: Setting, others: Mapping[str, Theirs], batch: int, size: int) -> Sides:
    """Latents to images [batch, 3, size, size]."""
    ours = setting.model
    z = _latents(setting, batch, size)

    def decode(theirs: Theirs) -> Outputs:
        return (theirs.vae.decode(z / theirs.vae.config["scaling_factor"]).sample,)

    return {OURS: lambda: (ours.vae.decode(z),)} | _each(others, decode)


def text_to_image_sides(setting: Setting, others: Mapping[str, Theirs], steps: int, size: int) -> Sides:
    """A whole image [size, size, 3] in ``steps`` steps, in 255 levels."""

    def ours() -> Outputs:
        *_, result = text_to_image(
            setting.model,
            PROMPT,
            seed=0,
            size=(size, size),
            count=steps,
            scale=GUIDANCE,
            execution=setting.execution,
        )
        assert isinstance(result, Result)
        return (torch.from_numpy(result.image).double(),)

    def pipeline(theirs: Theirs) -> Outputs:
        scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        pipe = StableDiffusionPipeline(
            vae=theirs.vae,
            text_encoder=theirs.text_encoder,
            tokenizer=None,  # type: ignore[arg-type]
            unet=theirs.unet,
            scheduler=scheduler,
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
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

    return {OURS: ours} | _each(others, pipeline)


def main() -> int:
    """Run the comparisons; 0 when every row was written."""
    rounds = 20 if torch.cuda.is_available() else 2
    parser = common_parser("Time UNet, autoencoder and text-to-image, ours beside diffusers.", rounds=rounds)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images at once (default: 1)")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="of the square images, px (default: 512)")
    parser.add_argument("--steps", type=int, default=2, help="of text-to-image, always one image (default: 2)")
    arguments = parser.parse_args()
    setting = prepare(arguments, "networks")
    others = {THEIRS: from_ours(setting.model)}
    if setting.device.type == "cuda":
        others[COMPILED] = compiled(from_ours(setting.model))
    around = surroundings(setting.device)
    setting.model.prepack()

    def compare(what: str, sides: Sides, shape: dict[str, int]) -> None:
        # On a CPU the networks' own turns have warmed text-to-image up, which takes minutes.
        warm = setting.device.type == "cpu" and what == "text to image"
        with torch.inference_mode():
            outcomes = take_turns(sides, setting.device, setting.rounds, warm_ups=0 if warm else 1)
        rows = {
            name: as_row(what, name, shape, setting.dtype, outcome, against=OURS, weight_bytes=setting.weight_bytes)
            for name, outcome in outcomes.items()
        }
        for name, row in rows.items():
            append(setting.output, row, around)
            extra = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
            ratio = row.p50 / rows[OURS].p50
            sides_shape = "x".join(map(str, shape.values()))
            print(
                f"{what:<14}{sides_shape:>10}  {name:<20}{row.p50:>9.4f}{ratio:>9.2f}{extra:>10}{row.max_error:>12.2e}"
            )

    print(f"{'what':<14}{'shape':>10}  {'impl':<20}{'p50 s':>9}{'/ ours':>9}{'extra MB':>10}{'difference':>12}")
    with torch.inference_mode():
        for batch, size in product(arguments.batch, arguments.size):
            shape = {"batch": batch, "height": size, "width": size}
            compare("unet", unet_sides(setting, others, batch, size), shape)
            compare("vae encode", encode_sides(setting, others, batch, size), shape)
            compare("vae decode", decode_sides(setting, others, batch, size), shape)
    for size in arguments.size:
        shape = {"steps": arguments.steps, "height": size, "width": size}
        compare("text to image", text_to_image_sides(setting, others, arguments.steps, size), shape)
    return 0


def _latents(setting: Setting, batch: int, size: int) -> Tensor:
    """Standard normal, drawn on the CPU as our text-to-image draws it."""
    factor = setting.model.config.vae.factor
    shape = (batch, setting.model.config.vae.latent_channels, size // factor, size // factor)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device, setting.dtype)


def _each(others: Mapping[str, Theirs], call: Callable[[Theirs], Outputs]) -> Sides:
    return {name: partial(call, theirs) for name, theirs in others.items()}


if __name__ == "__main__":
    sys.exit(main())
