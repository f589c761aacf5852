"""Several origins of one image: side by side, in any order, shared with other images, and none of the first's noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sampler import field_denoising
from sampler.execution import Execution
from sampler.inputs import OriginImage, TransferInputs, draw_field_noise, draw_noise
from sampler.latent_windows import Layout
from sampler.tasks import GenerationTask
from tests.conftest import build_tiny
from tests.sampler.cases import CASES, EVERYWHERE, SHORT, inputs, labels, run

LABELLED = {name: case for name, case in CASES.items() if name != "alaluf"}


@pytest.fixture(scope="module")
def exact():
    """The tiny model in float64, where rounding hides nothing."""
    return build_tiny(torch.float64)


def patch(seed: int, height: int, width: int) -> OriginImage:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return OriginImage(image, labels(seed, height, width))


A, B, C = patch(1, 64, 128), patch(2, 64, 64), patch(3, 128, 64)
TARGET = labels(9, 64, 64)


def of(*origins: OriginImage, target: np.ndarray = TARGET) -> TransferInputs:
    return TransferInputs(origins[0].image, origins[0].labels, target, 2, origins[1:])


def latents(model, given: TransferInputs, settings, execution: Execution | None = None) -> torch.Tensor:
    return run(model, [GenerationTask(given, 0)], settings, execution or Execution())[0].latents


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def test_an_origin_beside_itself_is_the_origin(exact):
    """Every map halves over twice the keys, its mean too; of AdaIN the deviation alone knows numbers."""
    settings = replace(SHORT, inversion="ddim", skip_steps=0, adain="none")
    assert relative(latents(exact, of(A, A), settings), latents(exact, of(A), settings)) < 1e-6
    assert relative(latents(exact, of(A, B), settings), latents(exact, of(A), settings)) > 1e-2


def test_their_order_is_no_matter_where_nothing_is_drawn_for_them(exact):
    settings = replace(SHORT, inversion="ddim", skip_steps=0)
    wanted = latents(exact, of(A, B, C), settings)
    assert relative(latents(exact, of(C, A, B), settings), wanted) < 1e-6
    assert relative(latents(exact, of(A, B), settings), wanted) > 1e-2


@pytest.mark.parametrize("draw", [draw_noise, draw_field_noise])
def test_noise_of_everything_else_is_as_without_further_origins(draw):
    settings = replace(SHORT, fresh_noise=0.5)
    alone, first, both = (draw(3, of(*origins), settings, 4, 8) for origins in ((A,), (A, B), (A, B, C)))
    for noise in (first, both):
        assert torch.equal(noise.structure_image, alone.structure_image)
        assert torch.equal(noise.origin, alone.origin)
    assert [each.shape for each in both.further] == [(12, 4, 8, 8), (12, 4, 16, 8)]
    assert torch.equal(both.further[0], first.further[0])


def test_whole_and_in_steps_the_same_is_drawn():
    settings = replace(SHORT, fresh_noise=0.5)
    whole, stepwise = (draw(3, of(A, B, C), settings, 4, 8) for draw in (draw_noise, draw_field_noise))
    for one, other in zip(whole.further, stepwise.further, strict=True):
        assert torch.equal(one, other)
    assert whole.fresh is not None
    assert stepwise.fresh is not None
    for i in range(12):
        assert torch.equal(whole.structure[i], stepwise.structure.at(i))
        assert torch.equal(whole.fresh[i], stepwise.fresh.at(i))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ("fresh noise", "global") else []) for name in LABELLED],
)
def test_images_of_a_series_are_what_they_are_alone(name, exact):
    settings = replace(SHORT, **LABELLED[name])
    other = labels(10, 64, 64)
    given = [of(A, B), of(A), of(A, B, target=other), of(A, C), of(A, B, C), of(B, A)]
    work = [GenerationTask(each, 0) for each in given]
    alone = [run(exact, [task], settings, Execution())[0].latents for task in work]
    for execution in (Execution(batch=3), Execution(batch=3, budget=EVERYWHERE)):
        for index, result in run(exact, work, settings, execution).items():
            assert relative(result.latents, alone[index]) < 1e-6
    others = alone[:-1]  # order alone is no matter with ddim
    assert min(relative(a, b) for a in others for b in others if a is not b) > 1e-3, "they are all the same"


def test_origins_are_shared_with_images_that_have_others_beside_them():
    settings = SHORT
    keys = [GenerationTask(of(*origins), 0).origin_keys(settings) for origins in ((A,), (A, B), (A, C), (B, A))]
    assert keys[0][0] == keys[1][0] == keys[2][0]
    assert len({*keys[0], *keys[1], *keys[2], *keys[3]}) == 5
    deterministic = replace(settings, inversion="ddim")
    keys = [GenerationTask(of(*origins), 0).origin_keys(deterministic) for origins in ((A, B), (B, A))]
    assert {*keys[0]} == {*keys[1]}


@pytest.mark.parametrize("name", ["winter", "ddim", "restricted, features"])
def test_a_field_in_one_window_is_that_without_windows(name, exact, monkeypatch):
    settings = replace(SHORT, **CASES[name], window=128, window_overlap=64)
    settings = replace(settings, adain_features=False)
    given = of(A, B, target=labels(4, 192, 192))
    whole = latents(exact, given, replace(settings, window=0))
    monkeypatch.setattr(field_denoising, "layout_of", lambda *_: Layout.of(24, 24, 24, 8))
    assert relative(latents(exact, given, settings), whole) < 1e-6


def test_classes_of_all_of_them_count():
    only_first, only_second = (replace(patch(5, 64, 64), labels=np.full((64, 64), c)) for c in (0, 1))
    assert of(only_first).unmatched_classes(8) == [1]
    assert of(only_first, only_second).unmatched_classes(8) == []


def test_each_of_several_wants_labels():
    with pytest.raises(ValueError, match="labels each"):
        replace(inputs(1), further=(OriginImage(B.image, None),))
