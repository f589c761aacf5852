"""Peak memory while loading, measured in a process of its own: at most 1.15 times the weights in the type asked for.

The limit bounds what loading adds to the process: its largest resident size ever less that before the call, mapped
pages of files included. Read from /proc, since ``ru_maxrss`` starts at the size of the process that started it.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint.tensors import build_empty
from model.clip import TextEncoder
from model.config import SD15, ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.unet import UNet
from model.vae import VAE
from tests.model.lora_files import kohya, random_pairs, write
from tests.model.originals import single_file_tensors

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")

ROOT = Path(__file__).parents[2]
LIMIT = 1.15
OBJECTS = 32e6  # the networks themselves, the tokenizer and code first used by loading: little beside a full-size model
MIDDLE = ModelConfig(
    unet=UNetConfig(block_out_channels=(64, 128, 192, 192), cross_attention_dim=64),
    vae=VAEConfig(block_out_channels=(32, 64, 96, 96)),
    text=TextConfig(width=64, mlp_width=256, layers=2, num_heads=1),
)
PROGRAM = """
import re, sys, torch, model, model.checkpoint.lora
def resident(field):
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(field + r":\\s+(\\d+) kB", status.read())[1])
model.tokenizer.Tokenizer()
before = resident("VmRSS")
loras = [model.checkpoint.lora.Lora(model.checkpoint.lora.Path(path), 0.5) for path in sys.argv[3:]]
loaded = model.load(sys.argv[1], dtype=getattr(torch, sys.argv[2]), loras=loras)
parts = (loaded.unet, loaded.vae, loaded.text_encoder)
weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
print(weights, resident("VmHWM") - before)
"""


def write_random(path: Path, config: ModelConfig, dtype: torch.dtype) -> Path:
    """A single file with every tensor of ``config``, of random numbers."""
    parts = {}
    for part, module in (
        ("unet", build_empty(lambda: UNet(config.unet))),
        ("vae", build_empty(lambda: VAE(config.vae))),
        ("text_encoder", build_empty(lambda: TextEncoder(config.text))),
    ):
        # Conversion of a uniform draw: cheap at full size, and no page is shared or empty.
        parts[part] = {name: torch.rand(value.shape).to(dtype) for name, value in module.state_dict().items()}
    save_file(single_file_tensors(config, parts), path)
    return path


def measure(path: Path, dtype: str, *loras: Path) -> tuple[int, int]:
    """Size of the weights, and what loading them added to the process at its peak, in bytes."""
    command = [sys.executable, "-c", PROGRAM, str(path), dtype, *map(str, loras)]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    weights, added = run.stdout.split()
    return int(weights), int(added)


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, Path]:
    """A model of middle size in two types."""
    folder = tmp_path_factory.mktemp("middle")
    return {
        dtype: write_random(folder / f"{dtype}.safetensors", MIDDLE, dtype) for dtype in (torch.float32, torch.float16)
    }


@pytest.mark.parametrize(
    ("stored", "asked"), [(torch.float32, "float32"), (torch.float32, "float16"), (torch.float16, "float32")]
)
def test_peak_memory_of_a_middle_size_model(stored: torch.dtype, asked: str, middle: dict[torch.dtype, Path]) -> None:
    weights, added = measure(middle[stored], asked)
    largest = MIDDLE.text.vocabulary * MIDDLE.text.width * stored.itemsize
    assert weights > 40e6
    assert added <= weights + largest + weights / 64 + OBJECTS, f"{added / weights:.3f} times the weights"


def test_peak_memory_with_a_lora_for_every_layer(middle: dict[torch.dtype, Path], tmp_path: Path) -> None:
    unet, text_encoder = build_empty(lambda: (UNet(MIDDLE.unet), TextEncoder(MIDDLE.text)))
    pairs = random_pairs(SimpleNamespace(unet=unet, text_encoder=text_encoder), rank=8)
    path = write(tmp_path / "lora.safetensors", kohya(pairs))
    weights, added = measure(middle[torch.float32], "float32", path)
    # The largest changed weight in float64, and one page of each map; not the half of all weights that float64 adds.
    largest = 8 * max(parameter.numel() for parameter in unet.parameters())
    stored = MIDDLE.text.vocabulary * MIDDLE.text.width * 4
    assert added <= weights + stored + largest + weights / 64 + OBJECTS, f"{added / weights:.3f} times the weights"
    assert weights > 2 * (stored + largest + OBJECTS)


@pytest.mark.slow
def test_peak_memory_of_stable_diffusion_15(tmp_path: Path) -> None:
    path = write_random(tmp_path / "full.safetensors", SD15, torch.float32)
    gc.collect()
    for asked in ("float32", "float16"):
        weights, added = measure(path, asked)
        assert added <= LIMIT * weights, f"{asked}: {added / weights:.3f} times the weights"
