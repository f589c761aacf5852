"""UNet and VAE against diffusers with the same seeded random weights, whole and block by block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.layers import Downsample, ResnetBlock, TimestepMLP, Upsample, timestep_embedding
from model.transformer import GEGLU, SpatialTransformer
from model.unet_blocks import KVSource

DTYPES = [torch.float64, torch.float32]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Relative error within float64's 1e-9, or within float32's rounding over the network's depth (~100 layers)."""
    bound = 1e-9 if ours.dtype == torch.float64 else 100 * torch.finfo(torch.float32).eps
    error = (ours - theirs).norm() / theirs.norm()
    assert error <= bound, f"relative error {error:.2e}"
    assert ours.std() > 1e-3 * ours.abs().max(), "the output is constant: this comparison would prove nothing"


def randn(seed: int, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24)])
@torch.no_grad()
def test_unet_predicts_what_diffusers_predicts(dtype, height, width, tiny_pair):
    ours, theirs = tiny_pair(dtype)
    z = randn(1, 3, 4, height, width, dtype=dtype)
    context = randn(2, 3, 77, ours.config.unet.cross_attention_dim, dtype=dtype)
    t = torch.tensor([1, 500, 999])
    assert_same(ours.unet(z, t, context), theirs.unet(z, t, context).sample)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_vae_encodes_and_decodes_as_diffusers_does(dtype, tiny_pair):
    ours, theirs = tiny_pair(dtype)
    image = randn(3, 2, 3, 64, 128, dtype=dtype).clamp(-1, 1)
    posterior = theirs.vae.encode(image).latent_dist
    assert_same(ours.vae.encode(image), posterior.mode() * 0.18215)
    assert_same(ours.vae.posterior(image)[1], posterior.logvar)
    latents = randn(4, 2, 4, 8, 16, dtype=dtype)
    assert_same(ours.vae.decode(latents), theirs.vae.decode(latents / 0.18215).sample)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_each_kind_of_block_agrees_with_diffusers(dtype):
    from diffusers.models.activations import GEGLU as TheirGEGLU
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel
    from diffusers.models.upsampling import Upsample2D

    torch.manual_seed(6)
    pairs = {
        "resnet": (
            ResnetBlock(8, 16, groups=4, eps=1e-5, time_embed_dim=12),
            ResnetBlock2D(in_channels=8, out_channels=16, temb_channels=12, groups=4, eps=1e-5),
            (randn(7, 2, 8, 6, 10, dtype=dtype), randn(8, 2, 12, dtype=dtype)),
        ),
        "down": (
            Downsample(8, asymmetric=False),
            Downsample2D(8, use_conv=True, padding=1),
            (randn(9, 2, 8, 6, 10, dtype=dtype),),
        ),
        "asymmetric down": (
            Downsample(8, asymmetric=True),
            Downsample2D(8, use_conv=True, padding=0),
            (randn(9, 2, 8, 6, 10, dtype=dtype),),
        ),
        "up": (Upsample(8), Upsample2D(8, use_conv=True), (randn(10, 2, 8, 3, 5, dtype=dtype),)),
        "geglu": (GEGLU(8, 32), TheirGEGLU(8, 32), (randn(11, 2, 15, 8, dtype=dtype),)),
        "time": (TimestepMLP(8), TimestepEmbedding(8, 32), (randn(12, 2, 8, dtype=dtype),)),
        "transformer": (
            SpatialTransformer(16, num_heads=2, cross_attention_dim=12, groups=4, group_norm_eps=1e-6, eps=1e-5),
            Transformer2DModel(2, 8, in_channels=16, cross_attention_dim=12, norm_num_groups=4),
            (randn(13, 2, 16, 5, 7, dtype=dtype), randn(14, 2, 77, 12, dtype=dtype)),
        ),
    }
    for name, (ours, theirs, arguments) in pairs.items():
        extra = {"resnet": ("torch",), "geglu": ("torch",)}.get(name, ())
        # Some of diffusers' layers register one convolution under two names.
        weights = {key: value for key, value in theirs.to(dtype).state_dict().items() if "Conv2d_0" not in key}
        ours.to(dtype).load_state_dict(weights)
        expected = theirs(*arguments)
        expected = expected[0] if name == "transformer" else expected
        own = arguments
        if name == "resnet":
            own = (arguments[0], ours.shift(arguments[1]))
        elif name == "transformer":
            own = (arguments[0], ours.text(arguments[1]), None, "torch")
        assert_same(ours(*own, *extra), expected)
    t = torch.tensor([0, 1, 499, 999])
    theirs_embedding = Timesteps(320, flip_sin_to_cos=True, downscale_freq_shift=0)(t)
    torch.testing.assert_close(timestep_embedding(t, 320), theirs_embedding, rtol=0, atol=0)


@pytest.mark.parametrize("levels", [(2,), (1,), (0,), (0, 1), (0, 1, 2)])
@torch.no_grad()
def test_one_pass_for_both_predictions_gives_what_two_give(levels, tiny):
    z, context = randn(1, 2, 4, 16, 16, dtype=torch.float32), randn(2, 1, 77, 12, dtype=torch.float32)
    cond = tiny.unet.condition(context, 300)
    source = KVSource(tiny.unet.features(z.flip(0), cond, levels), 1.67, "torch")
    own, cross = tiny.unet.self_and_cross(z, cond, source)
    torch.testing.assert_close(own, tiny.unet(z, 300, context), rtol=0, atol=0)
    torch.testing.assert_close(cross, tiny.unet(z, 300, context, kv_source=source), rtol=0, atol=0)
    assert (own - cross).norm() > 1e-4 * own.norm()


@torch.no_grad()
def test_what_the_unet_cannot_do_is_refused(tiny):
    z, context = randn(1, 1, 4, 16, 16, dtype=torch.float32), randn(2, 1, 77, 12, dtype=torch.float32)
    cond = tiny.unet.condition(context, 300)
    with pytest.raises(ValueError, match="no features"):
        tiny.unet.self_and_cross(z, cond, KVSource({}, 1.67, "torch"))
    for level in (3, -1):
        with pytest.raises(ValueError, match="no self-attention"):
            tiny.unet(z, cond, capture=(level,))
    with pytest.raises(ValueError, match="text states"):
        tiny.unet(z, 300)
    with pytest.raises(ValueError, match="multiples of 8"):
        tiny.unet(z[..., :9], cond)
    assert tiny.unet.features(z, cond, ()) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_types_are_as_accurate_as_diffusers_in_the_same_type(dtype, tiny_pair):
    exact, _ = tiny_pair(torch.float64)
    ours, theirs = tiny_pair(dtype)
    z, context = randn(1, 2, 4, 16, 8, dtype=torch.float64), randn(2, 2, 77, 12, dtype=torch.float64)
    image = randn(3, 1, 3, 64, 128, dtype=torch.float64).clamp(-1, 1)
    cases = {
        "unet": (
            exact.unet(z, 400, context),
            ours.unet(z.to(dtype), 400, context.to(dtype)),
            theirs.unet(z.to(dtype), 400, context.to(dtype)).sample,
        ),
        "encoder": (
            exact.vae.encode(image),
            ours.vae.encode(image.to(dtype)),
            theirs.vae.encode(image.to(dtype)).latent_dist.mode() * 0.18215,
        ),
        "decoder": (
            exact.vae.decode(z),
            ours.vae.decode(z.to(dtype)),
            theirs.vae.decode(z.to(dtype) / 0.18215).sample,
        ),
    }
    for name, (reference, mine, other) in cases.items():
        assert mine.dtype == dtype
        error, allowed = ((x.double() - reference).norm() / reference.norm() for x in (mine, other))
        assert error <= 2 * allowed + torch.finfo(dtype).eps, f"{name}: {error:.2e}, diffusers {allowed:.2e}"


@torch.no_grad()
def test_features_are_those_of_the_pass_and_change_nothing(tiny):
    z, context = randn(1, 2, 4, 16, 16, dtype=torch.float32), randn(2, 1, 77, 12, dtype=torch.float32)
    whole, cond = tiny.unet(z, 300, context), tiny.unet.condition(context, 300)
    eps, captured = tiny.unet(z, cond, capture=(0, 1))
    alone = tiny.unet.features(z, cond, (0, 1))
    torch.testing.assert_close(eps, whole, rtol=0, atol=0)
    assert list(captured) == list(alone) == tiny.unet.layers((0, 1))
    for layer, tokens in captured.items():
        torch.testing.assert_close(alone[layer], tokens, rtol=0, atol=0)
    # Given back to the same latents without contrast, they are the layers' own.
    source = KVSource(captured, 1.0, "torch")
    torch.testing.assert_close(tiny.unet(z, 300, context, kv_source=source), whole)
    other = tiny.unet(z.flip(0), 300, context, kv_source=source)
    assert (other - tiny.unet(z.flip(0), 300, context)).norm() > 1e-3 * other.norm()


@torch.no_grad()
def test_a_condition_for_many_timesteps_serves_each_of_them(tiny):
    z, context = randn(1, 2, 4, 16, 16, dtype=torch.float32), randn(2, 1, 77, 12, dtype=torch.float32)
    cond = tiny.unet.condition(context, torch.tensor([901, 500, 301, 1]))
    for row, t in enumerate((901, 500, 301, 1)):
        torch.testing.assert_close(tiny.unet(z, cond.rows(row, row)).eps, tiny.unet(z, t, context))
    together = tiny.unet(z, cond.rows(1, 2)).eps
    torch.testing.assert_close(together, tiny.unet(z, torch.tensor([500, 301]), context))
