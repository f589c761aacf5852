"""The baseline that times are compared with makes the same image as the product, and does the work it is said to do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.diffusers_baseline import Baseline, forwards
from benchmarks.diffusers_modules import from_ours
from benchmarks.inputs import SHORT
from sampler.inputs import TransferInputs
from sampler.presets import PRESETS
from sampler.series import generate
from sampler.settings import Settings
from tests.conftest import build_tiny

# Float64 networks leave the result's own type: latents come back in float32, a rounding of 6e-8.
TOLERANCE = 1e-7

CASES = {
    "two classes": ({}, 2),
    "three classes": ({}, 3),
    "fresh noise": ({"fresh_noise": 0.6}, 2),
    "all classes, without contrast": ({"adain": "all", "contrast": 1.0}, 3),
    "global": ({"adain": "global", "structure_every": 0}, 2),
    "foreground": ({"adain": "foreground", "cross_attn_32": None}, 2),
    "no AdaIN": ({"adain": "none", "class_values": (0.3, 0.9)}, 2),
}


@pytest.fixture(scope="module")
def ours():
    return build_tiny(torch.float64)


def random_patch(
    classes: int, *, origin: tuple[int, int] = (64, 64), target: tuple[int, int] = (64, 64)
) -> TransferInputs:
    """Labels in squares of 12 px, so that some latent positions are mixed."""
    rng = np.random.default_rng(5)

    def blobs(height: int, width: int) -> np.ndarray:
        coarse = rng.integers(0, classes, (-(-height // 12), -(-width // 12)))
        return np.kron(coarse, np.ones((12, 12), dtype=np.int64))[:height, :width]

    return TransferInputs(rng.integers(0, 256, (*origin, 3), dtype=np.uint8), blobs(*origin), blobs(*target), classes)


def assert_same_image(ours, baseline: Baseline, patch: TransferInputs, settings: Settings) -> None:
    latents, image = baseline.run(patch, settings, seed=11)
    *_, result = generate(ours, patch, settings, seed=11, impl="reference")
    error = (result.latents.double() - latents.double()).norm() / latents.double().norm()
    assert error <= TOLERANCE, f"relative error of the latents {error:.2e}"
    assert image.dtype == np.uint8
    assert np.abs(result.image.astype(int) - image.astype(int)).max() <= 1
    assert np.mean(result.image != image) < 1e-3


@pytest.mark.parametrize("optimised", [False, True], ids=["plain", "optimised"])
@pytest.mark.parametrize("name", CASES)
def test_it_makes_the_same_image_as_ours(name, optimised, ours):
    overrides, classes = CASES[name]
    settings = replace(SHORT, **overrides)
    assert_same_image(ours, Baseline(ours, optimised=optimised), random_patch(classes), settings)


@pytest.mark.parametrize("optimised", [False, True], ids=["plain", "optimised"])
def test_it_runs_each_image_as_often_as_documented(optimised, ours):
    baseline = Baseline(ours, optimised=optimised)
    batches: list[int] = []
    baseline.networks.unet.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].shape[0]))
    settings = SHORT
    baseline.run(random_patch(2), settings, seed=0)
    # The structure's noise maps but the last, then two passes over three images in each executed step.
    assert batches == [1] * (settings.steps - 1) + [3] * (2 * settings.num_denoising_steps)
    assert sum(batches) == forwards(settings)


def test_the_preset_takes_five_hundred_and_seven_forwards():
    assert forwards(PRESETS["winter"]) == 99 + 68 * 2 * 3 == 507


@pytest.mark.slow
def test_compiled_it_is_one_graph_for_each_kind_of_pass(ours, monkeypatch):
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    baseline = Baseline(ours, optimised=True, compile=True)
    assert_same_image(ours, baseline, random_patch(2), SHORT)
    # One image; three with nothing swapped, the origin's keys, the structure's.
    assert len(graphs) == 4
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "overrides",
    [
        {"inversion": "ddim"},
        {"inversion_guidance": 3.5},
        {"within_class_attention": True},
        {"adain_features": True},
        {"redenoise": True},
        {"free_u": True},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_settings_it_does_not_cover_are_refused_by_name(overrides, ours):
    with pytest.raises(ValueError, match=next(iter(overrides))):
        Baseline(ours).run(random_patch(2), replace(Settings(), **overrides), seed=0)


def test_origin_and_target_of_different_sizes_are_refused(ours):
    patch = random_patch(2, origin=(128, 64))
    with pytest.raises(ValueError, match="one size"):
        Baseline(ours).run(patch, Settings(), seed=0)


def test_weights_are_shared_and_left_as_they_are():
    ours = build_tiny(torch.float32)
    theirs = from_ours(ours)
    for part in ("unet", "vae", "text_encoder"):
        mine = {parameter.data_ptr() for parameter in getattr(ours, part).parameters()}
        assert {parameter.data_ptr() for parameter in getattr(theirs, part).parameters()} == mine
    convolution = ours.unet.conv_in.weight
    before = convolution.stride(), convolution.data_ptr()
    Baseline(ours, optimised=True)
    assert (convolution.stride(), convolution.data_ptr()) == before
