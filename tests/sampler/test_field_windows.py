"""Fields in windows: what they come to, in any order and from any step on, and how much memory they take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model import StableDiffusion
from model.clip import TextEncoder
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from sampler import field_denoising
from sampler.errors import NotFiniteError, SettingError
from sampler.execution import Execution
from sampler.field_denoising import FieldSteps, layout_of
from sampler.inputs import DrawnSteps, draw_field_noise, draw_noise
from sampler.latent_windows import Layout
from sampler.masks import latent_labels
from sampler.progress import Progress
from sampler.series import Result, generate_series
from sampler.settings import Settings, Span
from sampler.tasks import GenerationTask
from tests.allocations import peak_extra_bytes
from tests.conftest import build_tiny
from tests.sampler.cases import CASES, EVERYWHERE, inputs, labels, run
from tests.sampler.windowed_reference import transfer_in_windows

FIELD = Settings(
    steps=6,
    skip_steps=1,
    cross_attn_64=Span(1, 4),
    cross_attn_32=Span(1, 3),
    adain_range=Span(2, 5),
    structure_every=2,
    structure_until=4,
    window=128,
    window_overlap=64,
)
"""Fields of 192×192 px are then four windows."""
WINDOWED = {name: {k: v for k, v in case.items() if k != "adain_features"} for name, case in CASES.items()}
WAYS = [pytest.param(name, marks=[pytest.mark.slow] if name in ("global", "fresh noise") else []) for name in WINDOWED]


@pytest.fixture(scope="module")
def exact():
    """The tiny model in float64, where rounding hides nothing."""
    return build_tiny(torch.float64)


def field(seed: int = 1, height: int = 192, width: int = 192):
    return inputs(seed, height, width)


def latents(model, given, settings: Settings, execution: Execution | None = None, reached=None) -> torch.Tensor:
    task = GenerationTask(given, 0, reached)
    return run(model, [task], settings, execution or Execution())[0].latents


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def test_a_field_is_the_plainly_written_method_in_windows(exact):
    boxes = [(top, left, top + 16, left + 16) for top in (0, 8) for left in (0, 8)]
    settings = replace(FIELD, adain="all")
    wanted = transfer_in_windows(exact, field(), settings, boxes, seed=0)
    assert relative(latents(exact, field(), settings), wanted) < 1e-6  # latents leave as float32
    whole = latents(exact, field(), replace(settings, window=0))
    assert relative(whole, wanted) > 1e-2, "windows change nothing: this comparison would prove nothing"


@pytest.mark.parametrize("name", WAYS)
def test_a_field_that_is_one_window_is_that_without_windows(name, exact, monkeypatch):
    settings, given = replace(FIELD, **WINDOWED[name]), field()
    whole = latents(exact, given, replace(settings, window=0))
    assert torch.equal(latents(exact, given, replace(settings, window=192)), whole)
    # The windows' own way, of one window.
    monkeypatch.setattr(field_denoising, "layout_of", lambda *_: Layout.of(24, 24, 24, 8))
    assert relative(latents(exact, given, settings), whole) < 1e-6


@pytest.mark.parametrize("name", WAYS)
def test_windows_in_any_order_and_any_number_at_once_give_the_same(name, exact, monkeypatch):
    settings, given = replace(FIELD, **WINDOWED[name]), field()
    wanted = latents(exact, given, settings)
    assert relative(latents(exact, given, settings, Execution(batch=3)), wanted) < 1e-6

    def shuffled(*arguments) -> Layout:
        layout = layout_of(*arguments)
        order = np.random.default_rng(2).permutation(len(layout.windows))
        assert list(order) != sorted(order)
        return replace(layout, windows=tuple(layout.windows[place] for place in order))

    monkeypatch.setattr(field_denoising, "layout_of", shuffled)
    assert torch.equal(latents(exact, given, settings), wanted)


@pytest.mark.parametrize("name", ["winter", "ddim", "alaluf"])
def test_a_run_goes_on_from_every_step_to_the_same_bytes(name, tiny):
    settings, given = replace(FIELD, **WINDOWED[name]), field()
    settings = replace(settings, inversion="ddim", skip_steps=2) if name == "ddim" else settings
    events = list(generate_series(tiny, [GenerationTask(given, 0)], settings, Execution()))
    states = [event.reached for event in events if isinstance(event, Progress) and event.reached is not None]
    (wanted,) = (event for event in events if isinstance(event, Result))
    assert [state.done for state in states] == list(range(1, len(FieldSteps.of(settings)) + 1))
    for state in (states[0], states[-2]):
        assert set(state.tensors) >= {"clean"}
        (again,) = (
            event
            for event in generate_series(tiny, [GenerationTask(given, 0, state)], settings, Execution())
            if isinstance(event, Result)
        )
        assert torch.equal(again.latents, wanted.latents)
        assert np.array_equal(again.image, wanted.image)
    passes = [event for event in events if isinstance(event, Progress) and event.phase == "denoise"]
    assert passes[-1].done == passes[-1].total == 4 * len(states)


def test_fields_of_a_series_are_what_they_are_alone(exact):
    first = field()
    small = replace(first, target_labels=labels(5, 64, 64))
    other = replace(first, target_labels=labels(7, 192, 192))
    work = [GenerationTask(each, seed) for each, seed in ((first, 0), (small, 0), (other, 0), (first, 1))]
    alone = [run(exact, [task], FIELD, Execution())[0].latents for task in work]
    together = run(exact, work, FIELD, Execution(batch=2, budget=EVERYWHERE))
    assert max(relative(together[index].latents, each) for index, each in enumerate(alone)) < 1e-6
    assert relative(alone[0], alone[3]) > 1e-2


def test_statistics_are_those_of_a_class_in_the_whole_field(exact):
    """Of one that lies in one window alone, and of one that lies in all: the last step leaves the origin's."""
    target = np.zeros((192, 192), dtype=np.int64)
    target[:40, :48] = 1
    given = replace(field(), target_labels=target)
    settings = replace(FIELD, adain="all", adain_range=Span(2, 9))
    z = latents(exact, given, settings)[0]
    clean = exact.vae.encode(torch.from_numpy(given.origin).permute(2, 0, 1)[None].double() / 127.5 - 1)[0]
    for label in (0, 1):
        of_target = z[:, latent_labels(torch.from_numpy(target), 2, 8) == label]
        of_origin = clean[:, latent_labels(torch.from_numpy(given.origin_labels), 2, 8) == label]
        torch.testing.assert_close(of_target.mean(1).double(), of_origin.mean(1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(of_target.std(1).double(), of_origin.std(1), rtol=1e-3, atol=1e-3)
    windows = layout_of(settings, target.shape, 8).windows
    there = [bool(window.of(latent_labels(torch.from_numpy(target), 2, 8)).any()) for window in windows]
    assert sum(there) == 1


def test_a_fields_noise_is_drawn_for_the_whole_field_whatever_the_windows():
    settings = replace(FIELD, fresh_noise=0.5)
    held, again = (draw(3, field(), settings, 4, 8) for draw in (draw_noise, draw_field_noise))
    assert torch.equal(held.structure_image, again.structure_image)
    assert torch.equal(held.origin, again.origin)
    for name in ("structure", "fresh"):
        steps = getattr(again, name)
        assert isinstance(steps, DrawnSteps)
        for i in (5, 0, 3, 3):
            assert torch.equal(steps.at(i), getattr(held, name)[i])


def test_which_targets_go_in_windows():
    default = Settings()
    for shape, expected in (((768, 768), None), ((832, 64), 512), ((64, 832), 512), ((4096, 4096), 512)):
        assert default.window_for(shape) == expected
    assert replace(default, window=0).window_for((4096, 4096)) is None
    assert replace(default, window=256).window_for((256, 256)) is None
    assert replace(default, window=256).window_for((256, 320)) == 256
    for name, value in (("window", 100), ("window", 64), ("window", -64), ("window_overlap", 100)):
        with pytest.raises(SettingError, match="multiple of 64"):
            replace(default, **{name: value}).check()
    for settings in (replace(default, window=128), replace(default, window_overlap=512)):
        with pytest.raises(SettingError, match="less than"):
            settings.check()
    replace(default, window=0, window_overlap=512).check()
    replace(default, adain_features=True).check_windows((768, 768))
    with pytest.raises(SettingError, match="adain_features"):
        replace(default, adain_features=True).check_windows((832, 832))


def test_what_is_not_finite_ends_a_field_at_its_step(tiny):
    broken = build_tiny(torch.float32)
    broken.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="step 1 of"):
        latents(broken, field(), FIELD)


def test_memory_grows_with_the_window_and_not_with_the_field():
    torch.manual_seed(0)
    config = ModelConfig(
        unet=UNetConfig(block_out_channels=(64, 64, 64, 64), num_heads=2, cross_attention_dim=12, groups=4),
        vae=VAEConfig(block_out_channels=(8, 8, 16, 16), groups=4),
        text=TextConfig(width=12, mlp_width=24, layers=2, num_heads=2),
    )
    parts = UNet(config.unet), VAE(config.vae), TextEncoder(config.text)
    for part in parts:
        part.eval().requires_grad_(False)
    model = StableDiffusion(*parts, Tokenizer(), config, "wide")
    settings = replace(FIELD, steps=3, window_overlap=0)

    def peak(side: int, window: int) -> int:
        given, held = field(height=side, width=side), []
        work = generate_series(model, [GenerationTask(given, 0)], replace(settings, window=window), Execution())
        for event in work:
            if event.phase == "denoise":
                break

        def step() -> list[object]:
            for event in work:
                held.append(event)
                if event.done == event.total and (window == 0 or event.reached is not None):
                    break
            return held

        return peak_extra_bytes(step)

    small, large, whole = peak(256, 128), peak(512, 128), peak(512, 0)
    assert large < 1.5 * small, (small, large)
    assert whole > 8 * large, (whole, large)
