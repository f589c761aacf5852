"""Weights damaged by seed: each is loaded with finite parameters or refused in one line, and nothing else happens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import model
from model.checkpoint.tensors import build_empty
from model.clip import TextEncoder
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from tests.fuzz.mutations import TEXTS, json_bytes, mutate_bytes, mutate_json, seeds
from tests.model.originals import single_file_tensors

# The fewest levels and widths that a single file can tell: 32 groups, 8 heads, text heads of 64.
TINY = ModelConfig(
    unet=UNetConfig(block_out_channels=(32,), attention=(True,), layers_per_block=1, cross_attention_dim=64),
    vae=VAEConfig(block_out_channels=(32,), layers_per_block=1),
    text=TextConfig(width=64, mlp_width=64, layers=1, num_heads=1),
)
CONFIGS = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]},
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [32],
        "center_input_sample": False,
        "cross_attention_dim": 64,
        "down_block_types": ["CrossAttnDownBlock2D"],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": [1],
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["CrossAttnUpBlock2D"],
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [32],
        "down_block_types": ["DownEncoderBlock2D"],
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "out_channels": 3,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"],
    },
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModel"],
        "hidden_act": "quick_gelu",
        "hidden_size": 64,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "vocab_size": 49408,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "lambda_min_clipped": float("-inf"),
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "trained_betas": None,
    },
    "tokenizer/tokenizer_config.json": {"pad_token": {"content": "<|endoftext|>"}, "model_max_length": 10**30},
    "tokenizer/special_tokens_map.json": {"pad_token": "<|endoftext|>", "bos_token": {"content": "<|startoftext|>"}},
}
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
SHARD = "diffusion_pytorch_model-00001-of-00001.safetensors"


def random_parts() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    networks = {
        "unet": build_empty(lambda: UNet(TINY.unet)),
        "vae": build_empty(lambda: VAE(TINY.vae)),
        "text_encoder": build_empty(lambda: TextEncoder(TINY.text)),
    }
    return {
        part: {
            name: torch.rand(value.shape, generator=generator).half() for name, value in network.state_dict().items()
        }
        for part, network in networks.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with the UNet in a shard; each test puts back what it damages."""
    root = tmp_path_factory.mktemp("fuzz") / "tiny"
    parts = random_parts()
    for name, config in CONFIGS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(json_bytes(config))
    save_file(parts["unet"], root / "unet" / SHARD)
    weight_map = dict.fromkeys(parts["unet"], SHARD)
    (root / INDEX).write_bytes(json_bytes({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    save_file(parts["vae"], root / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(parts["text_encoder"], root / "text_encoder" / "model.safetensors")
    model.load(root)
    return root


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file; each test puts back what it damages."""
    path = tmp_path_factory.mktemp("fuzz_single") / "tiny.safetensors"
    save_file(single_file_tensors(TINY, random_parts()), path)
    model.load(path)
    return path


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table takes longer to read than everything else here."""
    monkeypatch.setattr("model.checkpoint.load.Tokenizer", lambda made=Tokenizer(): made)  # noqa: B008


def assert_loads_or_is_refused(source: Path | str) -> None:
    try:
        loaded = model.load(source, dtype=torch.float16)
    except model.CheckpointError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 1200, len(message)
        return
    for part in (loaded.unet, loaded.vae, loaded.text_encoder):
        assert all(parameter.isfinite().all() for parameter in part.parameters())


def header(path: Path) -> tuple[dict[str, object], bytes]:
    """The parsed header of a safetensors file, and the bytes behind it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(raw: bytes, rest: bytes) -> bytes:
    return len(raw).to_bytes(8, "little") + raw + rest


@pytest.mark.parametrize("name", [*CONFIGS, INDEX])
def test_damaged_json_files_of_a_folder(name: str, folder: Path) -> None:
    path = folder / name
    content = path.read_bytes()
    value = json.loads(content)
    try:
        for seed in seeds(12):
            rng = random.Random(f"{name} {seed}")
            damaged = mutate_bytes(content, rng) if seed % 4 == 3 else json_bytes(mutate_json(value, rng))
            path.write_bytes(damaged)
            assert_loads_or_is_refused(folder)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "name", [f"unet/{SHARD}", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
)
def test_damaged_weight_files_of_a_folder(name: str, folder: Path) -> None:
    path = folder / name
    content = path.read_bytes()
    table, rest = header(path)
    try:
        for seed in seeds(8):
            rng = random.Random(f"{name} {seed}")
            path.write_bytes(damaged_weights(content, table, rest, rng))
            assert_loads_or_is_refused(folder)
    finally:
        path.write_bytes(content)


def test_damaged_single_files(single: Path) -> None:
    content = single.read_bytes()
    table, rest = header(single)
    try:
        for seed in seeds(40):
            rng = random.Random(f"single {seed}")
            single.write_bytes(damaged_weights(content, table, rest, rng))
            assert_loads_or_is_refused(single)
    finally:
        single.write_bytes(content)


def damaged_weights(content: bytes, table: dict[str, object], rest: bytes, rng: random.Random) -> bytes:
    """A weight file with damage in its header's JSON, in its header's bytes, or in the numbers."""
    kind = rng.randrange(4)
    start = len(content) - len(rest)
    if kind == 0:
        return with_header(json_bytes(mutate_json(table, rng)), rest)
    if kind == 1:
        return mutate_bytes(content[:start], rng) + rest
    if kind == 2:
        return content[:start] + mutate_bytes(rest, rng)[: len(rest)].ljust(len(rest), b"\xff")
    return content[:8] + mutate_bytes(content[8:start], rng)[: start - 8].ljust(start - 8) + rest


def test_renamed_and_reshaped_tensors_of_single_files(single: Path, tmp_path: Path) -> None:
    """Headers that are sound in themselves, with names and shapes of another model."""
    with safe_open(single, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    prefixes = ("", "lora_te", "model_ema.", "first_stage_model.", "first_stage_model.loss.", "embedding_manager.")
    path = tmp_path / "renamed.safetensors"
    for seed in seeds(30):
        rng = random.Random(f"renamed {seed}")
        changed = dict(tensors)
        for key in rng.sample(sorted(tensors), rng.choice((1, 1, 2, 8))):
            kind = rng.randrange(4)
            value = changed.pop(key)
            if kind == 0:
                changed[rng.choice(prefixes) + key] = value
            elif kind == 1:
                shape = [rng.choice((0, 1, 2, 4, 9)) for _ in value.shape]
                shape[0] = rng.choice((shape[0], 32, 64, 320, 1024))
                changed[key] = torch.zeros(shape).half()
            elif kind == 2:
                changed[key] = torch.full(
                    value.shape, rng.choice((float("nan"), float("-inf"), 1e300)), dtype=torch.float64
                )
        save_file(changed, path)
        assert_loads_or_is_refused(path)


def test_hostile_texts_as_the_path() -> None:
    for text in TEXTS:
        if text.count("/") != 1:
            assert_loads_or_is_refused(text)
            assert_loads_or_is_refused(f"~{text}")
            assert_loads_or_is_refused(f"{text}.safetensors")
