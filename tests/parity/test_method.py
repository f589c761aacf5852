"""The whole method on a tiny model, in float64, against a second implementation on diffusers modules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sampler.inputs import OriginImage, TransferInputs
from sampler.presets import PRESETS, in_words
from sampler.series import Result, generate
from sampler.settings import Settings, Span
from tests.conftest import build_theirs, build_tiny
from tests.parity.second_implementation import SecondImplementation

CASES = {
    "winter": ({}, 2),
    "winter, three classes": ({}, 3),
    "one class": ({"adain": "all"}, 1),
    "fresh noise": ({"fresh_noise": 0.6}, 2),
    "only fresh noise": ({"fresh_noise": 1.0, "structure_every": 0}, 2),
    "ddim": ({"inversion": "ddim"}, 2),
    "all classes, 40 steps": ({"adain": "all", "steps": 40, "skip_steps": 5}, 3),
    "global, no contrast": ({"adain": "global", "contrast": 1.0, "class_values": (0.3, 0.9)}, 2),
    "guided inversion": ({"inversion_guidance": 3.5, "adain": "none", "mask_noise": 0.01}, 2),
    "restricted attention": ({"within_class_attention": True}, 3),
    "feature statistics": ({"adain_features": True, "within_class_attention": True, "steps": 60, "skip_steps": 10}, 2),
    "alaluf": (None, 2),
}


def as_plain_options(settings: Settings, classes: int) -> dict:
    pair = {name: getattr(settings, name) for name in ("cross_attn_64", "cross_attn_32", "adain_range")}
    return {
        "prompt": settings.prompt,
        "steps": settings.steps,
        "skip": settings.skip_steps if settings.skip_steps is not None else (32 if settings.inversion == "ddpm" else 0),
        "inversion": settings.inversion,
        "inversion_guidance": settings.inversion_guidance,
        "cross_64": (pair["cross_attn_64"].start, pair["cross_attn_64"].stop),
        "cross_32": (pair["cross_attn_32"].start, pair["cross_attn_32"].stop),
        "adain_range": (pair["adain_range"].start, pair["adain_range"].stop),
        "adain": settings.adain,
        "guidance": settings.guidance,
        "contrast": settings.contrast,
        "structure_every": settings.structure_every,
        "greys": settings.class_values or {1: [0.1], 2: [0.1, 0.5], 3: [0.1, 0.3, 0.5]}[classes],
        "mask_noise": settings.mask_noise,
        "fresh_noise": settings.fresh_noise,
        "redenoise": settings.redenoise,
        "lag": settings.counter_lag,
        "free_u": settings.free_u,
        "restrict": settings.within_class_attention,
        "match": settings.adain_features,
        "nouns": settings.object_nouns,
    }


def blobs(rng: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    """A label map of 16 px squares, so that some latent positions are mixed."""
    coarse = rng.integers(0, classes, ((height + 11) // 12, (width + 11) // 12))
    return np.kron(coarse, np.ones((12, 12), dtype=np.int64))[:height, :width]


# What differs from another case in one choice alone, or is part of another, and takes as long.
SELDOM = (
    *("one class", "only fresh noise", "global, no contrast", "winter, three classes"),
    *("guided inversion", "restricted attention"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SELDOM else []) for name in CASES]
)
def test_generate_agrees_with_the_second_implementation(name, tiny_pair):
    overrides, classes = CASES[name]
    settings = PRESETS["alaluf"] if overrides is None else replace(Settings(), **overrides)
    ours, theirs = tiny_pair(torch.float64)
    rng = np.random.default_rng(5)
    origin = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    m_origin, m_target = blobs(rng, 64, 128, classes), blobs(rng, 128, 64, classes)

    second = SecondImplementation(theirs.unet, theirs.vae, theirs.text_encoder, ours.tokenizer)
    latents, image = second.run(origin, m_origin, m_target, classes, as_plain_options(settings, classes), seed=11)
    *_, result = generate(
        ours, TransferInputs(origin, m_origin, m_target, classes), settings, seed=11, impl="reference"
    )

    assert isinstance(result, Result)
    error = (result.latents.double() - latents).norm() / latents.norm()
    assert error < 1e-7, f"relative error of the latents {error:.2e}"  # result.latents are float32
    assert np.abs(result.image.astype(int) - image.astype(int)).max() <= 1
    assert np.mean(result.image != image) < 1e-3


SEVERAL = {
    "two origins": {},
    "attention within classes": {"within_class_attention": True, "adain_features": True},
    "ddim": {"inversion": "ddim", "adain": "all"},
    "denoised again, fresh noise": {"redenoise": True, "fresh_noise": 0.5, "adain": "global"},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_origins_agree_with_the_second_implementation(name, tiny_pair):
    settings = replace(Settings(), steps=20, skip_steps=4, adain_range=Span(2, 14), **SEVERAL[name])
    ours, theirs = tiny_pair(torch.float64)
    rng = np.random.default_rng(6)
    origins = [
        OriginImage(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), blobs(rng, height, width, 2))
        for height, width in ((64, 128), (64, 64), (128, 64))
    ]
    m_target = blobs(rng, 64, 64, 2)

    second = SecondImplementation(theirs.unet, theirs.vae, theirs.text_encoder, ours.tokenizer)
    first, *further = ((each.image, each.labels) for each in origins)
    latents, _ = second.run(*first, m_target, 2, as_plain_options(settings, 2), seed=11, further=further)
    inputs = TransferInputs(*first, m_target, 2, tuple(origins[1:]))
    *_, result = generate(ours, inputs, settings, seed=11, impl="reference")

    assert isinstance(result, Result)
    error = (result.latents.double() - latents).norm() / latents.norm()
    assert error < 1e-7, f"relative error of the latents {error:.2e}"


FEW = {"steps": 12, "skip_steps": 6, "adain_range": Span(4, 6)}
OWN = {
    "the whole preset": (in_words({"domain": "gland"}) | {"domain": "gland"}, "foreground"),
    "an object of several pieces among other nouns": (
        {"prompt": "A photo of a cat and a histopathology", "nouns": ("histopathology", "cat"), **FEW},
        "foreground",
    ),
    "maps of the first step": ({"nouns": ("tissue", "photo"), **FEW, "adain_range": Span(0, 6)}, "foreground"),
    "no foreground": (FEW, "global"),
}


@pytest.mark.parametrize("name", [pytest.param("the whole preset", marks=pytest.mark.slow), *list(OWN)[1:]])
def test_foregrounds_that_are_found_agree_with_the_second_implementation(name):
    overrides, adain = OWN[name]
    settings = replace(PRESETS["alaluf"], **overrides)
    ours = build_tiny(torch.float64)
    decoder = ours.unet.up_blocks
    for attention in (decoder[3].attentions[2].block.attn1, decoder[2].attentions[2].block.attn2):
        # Random weights look everywhere alike; these look somewhere.
        attention.to_q.weight.data *= 16 if adain == "foreground" else 1
        attention.to_k.weight.data *= 16 if adain == "foreground" else 1
    theirs = build_theirs(ours)
    rng = np.random.default_rng(5)
    colours = np.array([(200, 60, 40), (60, 60, 200)])[blobs(rng, 64, 128, 2)]
    origin = (colours + rng.integers(-20, 20, colours.shape)).astype(np.uint8)
    m_target = blobs(rng, 128, 64, 2)

    second = SecondImplementation(theirs.unet, theirs.vae, theirs.text_encoder, ours.tokenizer)
    latents, image = second.run(origin, None, m_target, 2, as_plain_options(settings, 2), seed=11)
    *_, result = generate(ours, TransferInputs(origin, None, m_target, 2), settings, seed=11, impl="reference")

    assert isinstance(result, Result)
    assert result.found is not None
    assert result.found.adain == adain
    for each, key in ((result.found.origin, "origin"), (result.found.structure, "structure")):
        np.testing.assert_array_equal(each.mask.numpy(), second.masks[key])
        np.testing.assert_allclose(each.scores, second.scores[key], rtol=1e-6)
    error = (result.latents.double() - latents).norm() / latents.norm()
    assert error < 1e-7, f"relative error of the latents {error:.2e}"  # result.latents are float32
    assert np.abs(result.image.astype(int) - image.astype(int)).max() <= 1
