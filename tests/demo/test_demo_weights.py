"""The embedded weights themselves: small, complete, and what their folder says they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from commands.method import method_settings
from commands.recommended import read_recommended
from commands.requests import GenerateRequest
from dataset.tissue import draw_slide, draw_tissue, random_slide
from demo.data import Dataset
from demo.evaluate import borrowing, example
from demo.losses import psnr
from demo.train_unet import DEMO_TEXT, DEMO_UNET
from demo.train_vae import DEMO_VAE
from demo.training import to_tensor
from model import StableDiffusion, load
from sampler.presets import choose
from sampler.schedule import cumulative_alphas
from sampler.settings import Settings

WEIGHTS = Path(__file__).parents[2] / "demo" / "weights"
LARGEST = 40 * 10**6


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return load(WEIGHTS)


def test_whole_folder_is_at_most_40_megabytes() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_all_tensors_are_finite_float16() -> None:
    for path in WEIGHTS.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (safe_open has no iterator)
                tensor = opened.get_tensor(name)
                assert tensor.dtype == torch.float16, name
                assert bool(tensor.isfinite().all()), name


def test_loaded_configuration_is_the_trained_one(model: StableDiffusion) -> None:
    assert model.config.unet == DEMO_UNET
    assert model.config.vae == DEMO_VAE
    assert model.config.text == DEMO_TEXT


def test_recommended_settings_are_valid() -> None:
    recommended = read_recommended(WEIGHTS)
    assert recommended
    assert isinstance(choose("winter", recommended), Settings)


@torch.inference_mode()
def test_latents_of_drawn_tissue_have_unit_scale_and_decode_to_it(model: StableDiffusion) -> None:
    drawn = np.stack([draw_tissue(np.random.default_rng(900 + seed), 128)[0] for seed in range(6)])
    target = to_tensor(drawn, torch.device("cpu"))
    latents = model.vae.encode(target)
    # Six small images are a small sample of what the normalisation was measured on.
    assert 0.6 < float(latents.std()) < 1.5
    assert psnr(model.vae.decode(latents), target) > 22.0


@torch.inference_mode()
def test_noise_is_predicted_better_than_by_chance_at_every_level(model: StableDiffusion) -> None:
    image = to_tensor(draw_tissue(np.random.default_rng(950), 128)[0][None], torch.device("cpu"))
    clean = model.vae.encode(image)
    context = model.text_encoder(model.tokenizer(["an immunohistochemistry image of epithelium and stroma"]))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for t, bound in ((900, 0.1), (500, 0.5), (100, 1.0)):
        alpha_bar = float(cumulative_alphas()[t])
        noisy = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
        error = (model.unet(noisy, t, context) - noise).square().mean()
        assert float(error) < bound, f"t = {t}"


@torch.inference_mode()
def test_it_matters_whose_keys_are_borrowed(model: StableDiffusion) -> None:
    rng, views = np.random.default_rng(960), []
    for _ in range(4):
        slide = random_slide(rng)
        views += [draw_slide(rng, slide, 256) for _ in range(2)]
    images, labels = (np.stack(arrays) for arrays in zip(*views, strict=True))
    data = Dataset(images, labels, ("membrane",) * 8)
    (rows,) = borrowing(model, data, 1.0).values()
    for right, wrong, _ in rows[:2]:
        assert wrong > 1.1 * right


def test_the_swap_alone_paints_the_example(model: StableDiffusion) -> None:
    settings, _ = method_settings(GenerateRequest())
    rows = {name: iou for name, iou, _, _ in example(model, settings, ways=("swap alone",))}
    assert rows["swap alone"] > 0.85


def test_index_names_the_parts_that_are_there() -> None:
    index = json.loads((WEIGHTS / "model_index.json").read_text(encoding="utf-8"))
    parts = {name for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    assert parts == {path.name for path in WEIGHTS.iterdir() if path.is_dir()}
