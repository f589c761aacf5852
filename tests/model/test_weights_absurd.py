"""Weights whose descriptions are absurd: one line, and nothing is built or read for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.checkpoints import WEIGHTS, edit_json, edit_tensors, refusal, refused

pytestmark = pytest.mark.usefixtures("one_tokenizer", "at_once")


NO_JSON = [
    "[" * 100_000,
    '{"a":' * 50_000,
    '{"a": ' + "9" * 5000 + "}",
    "\ufeff{}",
    '{"a": 1, "a": 2}',
    " " * (17 * 2**20),
    "null",
    "",
]
NO_NUMBERS = [
    '{"in_channels": -' + "9" * 4000 + "}",
    '{"in_channels": NaN}',
    '{"in_channels": 1e400}',
    '{"in_channels": [[4]]}',
    '{"in_channels": "4"}',
    '{"norm_eps": 1e999}',
    '{"norm_eps": -1e999}',
    '{"norm_eps": Infinity}',
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("unet/config.json", "model_index.json") for text in NO_JSON),
        *(("unet/config.json", text) for text in NO_NUMBERS),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_json_that_no_program_wrote_is_refused(name: str, text: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).write_text(text)
    message = refusal(folder)
    assert str(folder / name) in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "content",
    [b'{"in_channels": "\xff"}', "{}".encode("utf-16"), b"\x80", b'{"a": "\xed\xb3\xbf"}'],
    ids=lambda content: repr(content[:8]),
)
@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json", "tokenizer/merges.txt"])
def test_bytes_that_are_no_text_are_refused(name: str, content: bytes, folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    assert f"{folder / name}: not UTF-8" in refusal(folder)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json"])
def test_small_files_that_are_huge_are_refused_unread(name: str, folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    path = folder / "tokenizer" / name
    with path.open("wb") as file:
        file.truncate(2**40)
    assert f"{path}: larger than 16 MiB" in refusal(folder)


def unwanted(*args: object) -> None:
    raise AssertionError("a network was built")


ABSURD = [
    ("unet", {"layers_per_block": 1_000_000}),
    ("unet", {"block_out_channels": [10**9] * 4}),
    ("unet", {"block_out_channels": [32] * 1000, "down_block_types": ["DownBlock2D"] * 1000}),
    ("unet", {"cross_attention_dim": 10**12}),
    ("unet", {"norm_num_groups": 10**400}),
    ("vae", {"layers_per_block": 10**9}),
    ("vae", {"latent_channels": 10**9}),
    ("vae", {"block_out_channels": [2**40] * 4}),
    ("vae", {"scaling_factor": 10**400}),
    ("vae", {"scaling_factor": 1e-300}),
    ("text_encoder", {"num_hidden_layers": 10**9}),
    ("text_encoder", {"intermediate_size": 2**50}),
    ("text_encoder", {"hidden_size": "64"}),
    ("text_encoder", {"layer_norm_eps": True}),
    ("unet", {"in_channels": 10**9}),
    ("unet", {"attention_head_dim": 10**30}),
    ("unet", {"num_attention_heads": 2**63}),
    ("unet", {"layers_per_block": [10**6] * 4}),
    ("unet", {"layers_per_block": 1.5}),
    ("unet", {"norm_eps": 1e300}),
    ("unet", {"norm_eps": -1}),
    ("vae", {"block_out_channels": [32] * 1000, "down_block_types": ["DownEncoderBlock2D"] * 1000}),
    ("vae", {"norm_num_groups": -32}),
    ("vae", {"scaling_factor": 1e300}),
    ("vae", {"scaling_factor": "0.18215"}),
    ("text_encoder", {"num_attention_heads": 10**9}),
    ("text_encoder", {"hidden_size": 10**10}),
    ("text_encoder", {"layer_norm_eps": 10**400}),
    ("text_encoder", {"vocab_size": 10**12}),
    ("text_encoder", {"max_position_embeddings": 10**9}),
    ("unet", {"layers_per_block": {"a": 1}}),
    ("unet", {"down_block_types": [[]] * 4}),
]


@pytest.mark.parametrize(("part", "changes"), ABSURD, ids=str)
def test_absurd_numbers_in_configurations_are_refused_by_name_before_anything_is_built(
    part: str, changes: dict[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.checkpoint.tensors.build_networks", unwanted)
    edit_json(folder / part / "config.json", **changes)
    assert any(name in refusal(folder) for name in changes)


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
# Tensors without elements may have any width.
ABSURD_SHAPES = {
    "UNet's width": {f"{UNET}input_blocks.1.0.out_layers.3.weight": (32 * 10**7, 0, 3, 3)},
    "UNet's context": {f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight": (0, 10**9)},
    "UNet's layers": {f"{UNET}input_blocks.{n}.0.out_layers.3.weight": (32, 0, 3, 3) for n in range(12, 1000)},
    "UNet's levels": {
        f"{UNET}input_blocks.{n}.0.{'out_layers.3' if n % 2 else 'op'}.weight": (32, 0, 3, 3) for n in range(12, 1000)
    },
    "VAE's width": {f"{VAE}encoder.down.0.block.0.conv2.weight": (32 * 10**9, 0, 3, 3)},
    "VAE's layers": {f"{VAE}encoder.down.0.block.{n}.conv2.weight": (32, 0, 3, 3) for n in range(2, 1000)},
    "VAE's levels": {f"{VAE}encoder.down.{n}.block.0.conv2.weight": (32, 0, 3, 3) for n in range(4, 1000)},
    "text encoder's width": {f"{TEXT}final_layer_norm.weight": (64 * 1000,)},
    "text encoder's MLP": {f"{TEXT}encoder.layers.0.mlp.fc1.weight": (10**9, 0)},
    "text encoder's layers": {f"{TEXT}encoder.layers.{n}.mlp.fc1.weight": (64, 0) for n in range(2, 1000)},
}


@pytest.mark.parametrize("what", ABSURD_SHAPES)
def test_absurd_shapes_in_single_files_are_refused_before_anything_is_built(
    what: str, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.checkpoint.tensors.build_networks", unwanted)
    path = tmp_path / "absurd.safetensors"
    save_file(load_file(single) | {key: torch.zeros(shape) for key, shape in ABSURD_SHAPES[what].items()}, path)
    assert re.search("is not supported: |is missing: ", refused(path))


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2K\rerror: all is well", "\u2028", "\x85", "\u202ex"])
def test_messages_are_one_line_whatever_things_are_called(
    name: str, single: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    odd = tmp_path / name / f"{name}.safetensors"
    save_file(load_file(single) | {f"{name}{n}": torch.zeros(1) for n in range(4)}, odd)
    folder.rename(tmp_path / name / "folder")
    edit_tensors(tmp_path / name / "folder" / WEIGHTS["unet"], lambda tensors: tensors | {name: torch.zeros(1)})
    edit_json(tmp_path / name / "folder" / "vae" / "config.json", act_fn=name)
    for source in (tmp_path / name, odd, tmp_path / name / "folder", tmp_path / name / "absent"):
        assert refusal(source).isprintable()
    edit_json(tmp_path / name / "folder" / "vae" / "config.json", act_fn="silu")
    assert refusal(tmp_path / name / "folder").isprintable()


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    for number, head in enumerate((b"\xff" * 8, (2**40).to_bytes(8, "little"), (4).to_bytes(8, "little") + b"nul")):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(head + b"{" * 100)
        refused(path)
    text = json.dumps({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "big.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    refused(tmp_path / "big.safetensors")
