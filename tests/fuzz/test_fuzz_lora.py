"""LoRA files damaged by seed: each is merged to finite weights or refused in one line, and nothing else happens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from commands.loras import read_loras, split_weight
from imaging.errors import InputError
from model.checkpoint.lora import Lora, find_updates, merging
from model.checkpoint.tensors import build_networks
from model.clip import TextEncoder
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.errors import CheckpointError
from model.unet import UNet
from tests.fuzz.mutations import TEXTS, VALUES, json_bytes, mutate_bytes, mutate_json, seeds

TINY = ModelConfig(
    unet=UNetConfig(block_out_channels=(32,), attention=(True,), layers_per_block=1, cross_attention_dim=64),
    vae=VAEConfig(block_out_channels=(32,), layers_per_block=1),
    text=TextConfig(width=64, mlp_width=64, layers=1, num_heads=1),
)
LAYERS = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": ((4, 32), (32, 4)),
    "lora_unet_mid_block_resnets_0_conv1": ((2, 32, 3, 3), (32, 2, 1, 1)),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": ((3, 64), (64, 3)),
}
PEFT = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONFIG = {
    "unet.r": 4,
    "unet.lora_alpha": 8,
    "unet.alpha_pattern": {"to_k": 2, "^mid_block.attentions.0.proj_in": 1.5},
    "unet.rank_pattern": {},
    "unet.use_rslora": False,
    "unet.use_dora": False,
    "unet.init_lora_weights": True,
}
MUCH = 1e30


@pytest.fixture(scope="module")
def networks() -> tuple[UNet, TextEncoder]:
    """Without weights: zeros stand in for them."""
    unet, _, text_encoder = build_networks(TINY)
    return unet, text_encoder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound file in two layouts."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for start, (down, up) in LAYERS.items():
        tensors[f"{start}.lora_down.weight"] = torch.rand(down, generator=generator).half()
        tensors[f"{start}.lora_up.weight"] = torch.rand(up, generator=generator)
        tensors[f"{start}.alpha"] = torch.tensor(2.0)
    tensors[f"{PEFT}.lora_A.weight"] = torch.rand(4, 64, generator=generator).bfloat16()
    tensors[f"{PEFT}.lora_B.weight"] = torch.rand(32, 4, generator=generator)
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(CONFIG)})
    return path


def merged_or_refused(path: Path, networks: tuple[UNet, TextEncoder]) -> dict[str, torch.Tensor] | None:
    """The changed parameters, in float32; None if the file is refused."""
    changed = {}
    try:
        for updates, network in zip(find_updates([Lora(path)], *networks).values(), networks, strict=True):
            shapes = {name: parameter.shape for name, parameter in network.state_dict().items()}
            for name in updates:
                changed[name] = merging(updates)(name, torch.zeros(shapes[name]))
                assert changed[name].shape == shapes[name]
    except CheckpointError as error:
        for message in (str(error), *error.problems):
            assert message.isprintable()
            assert 0 < len(message) < 1200
        return None
    assert changed
    # Finite in float64; sums beyond the networks' type are refused where they are rounded.
    assert all(value.isfinite().all() for value in changed.values())
    return changed


def test_the_sound_file_is_merged(path: Path, networks: tuple[UNet, TextEncoder]) -> None:
    changed = merged_or_refused(path, networks)
    assert changed is not None
    assert len(changed) == 4
    assert all(value.abs().max() > 0 for value in changed.values())


def test_damaged_bytes(path: Path, networks: tuple[UNet, TextEncoder]) -> None:
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:length])
    for seed in seeds(150):
        rng = random.Random(f"bytes {seed}")
        kind = rng.randrange(4)
        if kind == 0:
            head = json_bytes(mutate_json(table, rng))
            damaged = len(head).to_bytes(8, "little") + head + content[length:]
        elif kind == 1:
            damaged = content[:length] + mutate_bytes(content[length:], rng)
        elif kind == 2:
            # Of the same length, so that the table still fits.
            numbers = mutate_bytes(content[length:], rng)[: len(content) - length]
            damaged = content[:length] + numbers.ljust(len(content) - length, b"\xff")
        else:
            damaged = mutate_bytes(content, rng)
        path.write_bytes(damaged)
        merged_or_refused(path, networks)


def test_every_truncation_is_refused(path: Path, networks: tuple[UNet, TextEncoder]) -> None:
    content = path.read_bytes()
    for length in random.Random(0).sample(range(len(content)), 60):
        path.write_bytes(content[:length])
        assert merged_or_refused(path, networks) is None


def test_sound_tables_of_odd_tensors(path: Path, networks: tuple[UNet, TextEncoder]) -> None:
    """Other names, shapes, types and values, in files that are sound in themselves."""
    tensors = load_file(path)
    kinds = (torch.int8, torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.float8_e5m2, torch.complex64)
    ends = ("lora_mid.weight", "hada_w1_a", "alpha", "lora_down.bias", "weight", "lora_A.weight", "diff", "\n", "")
    for seed in seeds(200):
        rng = random.Random(f"odd {seed}")
        changed = dict(tensors)
        for key in rng.sample(sorted(tensors), rng.choice((1, 1, 2, 5))):
            value, kind = changed.pop(key), rng.randrange(6)
            if kind == 0:
                changed[f"{key.rpartition('.')[0]}.{rng.choice(ends)}"] = value
            elif kind == 1:
                changed[key] = torch.zeros([rng.choice((0, 1, 2, 4, 32, 64)) for _ in range(rng.randrange(6))])
            elif kind == 2:
                changed[key] = value.to(rng.choice(kinds))
            elif kind == 3:
                bad = rng.choice((float("nan"), float("-inf"), MUCH, -MUCH, 1e100, 0.0))
                changed[key] = torch.full(value.shape, bad, dtype=torch.float64)
            elif kind == 4:
                changed[key] = value.transpose(0, 1).contiguous() if value.ndim > 1 else value
        save_file(changed, path)
        merged_or_refused(path, networks)


def test_damaged_metadata(path: Path, networks: tuple[UNet, TextEncoder]) -> None:
    tensors = load_file(path)
    for seed in seeds(60):
        rng = random.Random(f"metadata {seed}")
        try:
            text = json_bytes(mutate_json(CONFIG, rng)).decode()
        except UnicodeDecodeError:
            continue
        save_file(tensors, path, metadata={"lora_adapter_metadata": text})
        merged_or_refused(path, networks)


def test_hostile_words(path: Path) -> None:
    for text in (*TEXTS, *map(str, VALUES)):
        for word in (text, f"{path}:{text}", f"{path}{text}", f":{text}"):
            message, given = "", None
            try:
                (given,) = read_loras([word])
            except (InputError, CheckpointError) as error:
                message = str(error)
            assert message.isprintable()
            assert len(message) < 1500
            if given is None:
                assert message
                continue
            assert given.lora.file == path
            assert abs(given.lora.weight) <= 100
            name, weight = split_weight(word)
            assert name + weight == word
