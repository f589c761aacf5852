"""Tiny models with random weights, once as ours and once as diffusers' and transformers' modules."""

from __future__ import annotations

from commands.threads import wait_briefly

wait_briefly()

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model import StableDiffusion
from model.clip import TextEncoder
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from tests.model.checkpoints import their_modules, write_folder
from tests.model.lora_files import kohya, random_pairs, write

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Processes of tests that take all cores each take three times as long as with their share.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

LONG = ("test_flops", "test_method", "test_series", "test_optimizations", "test_triton_interpreter")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that of two processes none waits for the other at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


TINY = ModelConfig(
    unet=UNetConfig(block_out_channels=(8, 16, 16, 16), num_heads=2, cross_attention_dim=12, groups=4),
    vae=VAEConfig(block_out_channels=(8, 8, 16, 16), groups=4),
    text=TextConfig(width=12, mlp_width=24, layers=2, num_heads=2),
)


def build_tiny(dtype: torch.dtype) -> StableDiffusion:
    """Our tiny model with seeded random weights."""
    torch.manual_seed(0)
    unet, vae, text = UNet(TINY.unet), VAE(TINY.vae), TextEncoder(TINY.text)
    for network in (unet, vae, text):
        for parameter in network.parameters():
            if parameter.ndim == 1:
                # Norms begin at 1 and 0, and one taken for another would not show.
                parameter.data += 0.2 * torch.randn_like(parameter)
        network.to(dtype).eval().requires_grad_(False)
    return StableDiffusion(unet, vae, text, Tokenizer(), TINY, "tiny")


def build_theirs(ours: StableDiffusion) -> SimpleNamespace:
    """diffusers' and transformers' modules with the weights and the type of ``ours``."""
    theirs = their_modules(ours.config)
    dtype = next(ours.unet.parameters()).dtype
    for part in ("unet", "vae", "text_encoder"):
        module = getattr(theirs, part).to(dtype)
        getattr(module, "text_model", module).load_state_dict(getattr(ours, part).state_dict())
    return theirs


@pytest.fixture(scope="session")
def tiny() -> StableDiffusion:
    """Our tiny model, float32."""
    return build_tiny(torch.float32)


@pytest.fixture
def tiny_pair() -> Callable[[torch.dtype], tuple[StableDiffusion, SimpleNamespace]]:
    """A function dtype -> (ours, theirs): the same tiny weights in both libraries' modules."""

    def pair(dtype: torch.dtype) -> tuple[StableDiffusion, SimpleNamespace]:
        ours = build_tiny(dtype)
        return ours, build_theirs(ours)

    return pair


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a diffusers folder. Not to be changed."""
    return write_folder(tmp_path_factory.mktemp("weights") / "tiny", build_theirs(build_tiny(torch.float32)))


@pytest.fixture(scope="session")
def tiny_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny model. Not to be changed."""
    pairs = random_pairs(build_theirs(build_tiny(torch.float32)), only="attn")
    return write(tmp_path_factory.mktemp("loras") / "tissue.safetensors", kohya(pairs, 2.0))
