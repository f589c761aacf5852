"""Weights that are hostile: bounded work, one line, and nothing that is not finite gets through."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from model.tensors import read_table, read_tensors
from tests.model.checkpoints import WEIGHTS, edit_json, edit_tensors, refused

pytestmark = pytest.mark.usefixtures("one_tokenizer")


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """What hangs is ended."""
    signal.alarm(30)
    yield
    signal.alarm(0)


def put(value: float, place: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        key = sorted(tensors)[len(tensors) // 2]
        flat = tensors[key].flatten()
        flat[{0: 0, 1: len(flat) // 2, 2: -1}[place]] = value
        tensors[key] = flat.view_as(tensors[key])
        return tensors

    return change


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("part", WEIGHTS)
def test_a_tensor_that_is_not_finite_is_refused_by_name(part: str, value: float, place: int, folder: Path) -> None:
    path = folder / WEIGHTS[part]
    edit_tensors(path, put(value, place))
    key = sorted(load_file(path))[len(load_file(path)) // 2]
    with pytest.raises(model.InputError) as caught:
        model.load(folder)
    assert str(path) in str(caught.value)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [float("nan"), -float("inf")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_values_that_are_not_finite_in_half_types_are_refused(
    dtype: torch.dtype, value: float, place: int, folder: Path
) -> None:
    edit_tensors(folder / WEIGHTS["vae"], lambda tensors: {k: v.to(dtype) for k, v in tensors.items()})
    edit_tensors(folder / WEIGHTS["vae"], put(value, place))
    assert "holds NaN or infinity" in _message(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_weights_of_every_floating_type_are_read(dtype: torch.dtype, folder: Path) -> None:
    for part in WEIGHTS.values():
        edit_tensors(folder / part, lambda tensors: {k: v.to(dtype) for k, v in tensors.items()})
    model.load(folder)


SINGLE_KEYS = (
    "model.diffusion_model.out.2.bias",
    "first_stage_model.decoder.conv_out.weight",
    "cond_stage_model.transformer.text_model.final_layer_norm.weight",
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("key", SINGLE_KEYS)
def test_a_tensor_of_a_single_file_that_is_not_finite_is_refused_by_name(key, value, single, tmp_path):
    tensors = load_file(single)
    tensors[key].view(-1)[-1] = value
    save_file(tensors, tmp_path / "model.safetensors")
    message = refused(tmp_path / "model.safetensors")
    assert f"{key} holds NaN or infinity" in message


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_value_too_large_for_half_precision_is_told_apart(part: str, folder: Path) -> None:
    edit_tensors(folder / WEIGHTS[part], put(-70000.0, 2))
    model.load(folder, dtype=torch.float32)
    model.load(folder, dtype=torch.bfloat16)
    with pytest.raises(model.InputError, match=r"holds 7e\+04, too large for float16: take --dtype bf16 or fp32"):
        model.load(folder, dtype=torch.float16)


def test_a_value_too_large_for_every_type_is_told_apart(single: Path, tmp_path: Path) -> None:
    tensors = load_file(single)
    tensors[SINGLE_KEYS[1]] = torch.full_like(tensors[SINGLE_KEYS[1]], 1e300, dtype=torch.float64)
    save_file(tensors, tmp_path / "model.safetensors")
    message = refused(tmp_path / "model.safetensors")
    assert f"{SINGLE_KEYS[1]} holds 1e+300, too large for float32" in message
    assert "--dtype" not in message


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_of_other_types_are_refused_by_name(part: str, dtype: torch.dtype, folder: Path) -> None:
    key = min(load_file(folder / WEIGHTS[part]))
    edit_tensors(folder / WEIGHTS[part], lambda tensors: tensors | {key: tensors[key].to(dtype)})
    message = _message(folder)
    assert f"{folder / WEIGHTS[part]}: {key} has type " in message
    assert "16- or 32-bit floating point" in message


def _message(source: Path | str) -> str:
    with pytest.raises(model.InputError) as caught:
        model.load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


KINDS = ("pipe", "device", "socket", "folder", "gone", "loop")


def replace_by(kind: str, path: Path) -> None:
    if path.exists():
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "folder":
        path.mkdir()
    elif kind == "gone":
        path.symlink_to(path.with_name("gone"))
    else:
        path.symlink_to(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        *WEIGHTS.values(),
    ],
)
def test_what_is_no_file_inside_a_weights_folder_is_refused_at_once(name: str, kind: str, folder: Path) -> None:
    replace_by(kind, folder / name)
    _message(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_what_is_no_file_among_small_files_is_refused_or_passed_over(name: str, kind: str, folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    replace_by(kind, folder / "tokenizer" / name)
    if kind == "gone":
        model.load(folder)
    else:
        _message(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_the_schedule_s_place_is_refused_or_passed_over(kind: str, folder: Path) -> None:
    replace_by(kind, folder / "scheduler" / "scheduler_config.json")
    if kind == "gone":
        model.load(folder)
    else:
        assert "scheduler_config.json" in _message(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors.index.json", "part.safetensors"])
def test_what_is_no_file_among_shards_is_refused_at_once(name: str, kind: str, folder: Path) -> None:
    whole = folder / WEIGHTS["unet"]
    shard_of = dict.fromkeys(load_file(whole), "part.safetensors")
    whole.rename(whole.with_name("part.safetensors"))
    index = whole.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": shard_of}))
    replace_by(kind, whole.with_name(name))
    assert name in _message(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_what_is_no_folder_in_a_part_s_place_is_refused_at_once(part: str, kind: str, folder: Path) -> None:
    (folder / part).rename(folder / "elsewhere")
    replace_by(kind, folder / part)
    assert part in _message(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    replace_by(kind, path)
    _message(path)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x" * 300,
        "a\0b",
        "\udcff\ud800",
        "~nobody-there/x",
        "a/b--c",
        "a/..",
        "../..a",
        "a/" + "b" * 200,
        "a//b",
        "-/-",
        "a/-b",
        "a--b/c",
        "a/b.git",
        "ü/x",
        "a/b\n",
        "\x1b[2K/x",
        "x" * 200 + "/y",
        "x" * 5000,
        "a/" * 3000,
        "~" + "x" * 300,
        "~\0/x",
        "/dev/zero/x",
        "/dev/stdin",
        "/proc/self/mem",
    ],
    ids=lambda source: repr(source[:12]),
)
def test_a_source_that_can_be_nothing_is_refused_in_one_line(source: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _message(source)


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
    message = _message(folder)
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
    assert f"{folder / name}: not UTF-8" in _message(folder)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json"])
def test_small_files_that_are_huge_are_refused_unread(name: str, folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    path = folder / "tokenizer" / name
    with path.open("wb") as file:
        file.truncate(2**40)
    assert f"{path}: larger than 16 MiB" in _message(folder)


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
    monkeypatch.setattr("model.folder.build_empty", unwanted)
    edit_json(folder / part / "config.json", **changes)
    assert any(name in _message(folder) for name in changes)


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
# Tensors without elements may have any width.
ABSURD_SHAPES = {
    "UNet's width": {f"{UNET}input_blocks.1.0.out_layers.3.weight": (32 * 10**7, 0, 3, 3)},
    "UNet's context": {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (0, 10**9)},
    "UNet's channels": {f"{UNET}out.2.weight": (10**9, 0, 3, 3)},
    "UNet's layers": {f"{UNET}input_blocks.{n}.0.out_layers.3.weight": (32, 0, 3, 3) for n in range(12, 1000)},
    "UNet's levels": {
        f"{UNET}input_blocks.{n}.0.{'out_layers.3' if n % 2 else 'op'}.weight": (32, 0, 3, 3) for n in range(12, 1000)
    },
    "VAE's width": {f"{VAE}encoder.down.0.block.0.conv2.weight": (32 * 10**9, 0, 3, 3)},
    "VAE's channels": {f"{VAE}post_quant_conv.weight": (10**9, 0, 1, 1)},
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
    monkeypatch.setattr("model.single_file.build_empty", unwanted)
    path = tmp_path / "absurd.safetensors"
    save_file(load_file(single) | {key: torch.zeros(shape) for key, shape in ABSURD_SHAPES[what].items()}, path)
    assert "is not supported: it must be from 1 to " in refused(path)


def test_a_folder_of_the_hub_cache_is_told_which_snapshot_to_give(folder: Path, tmp_path: Path) -> None:
    storage = tmp_path / "models--owner--name"
    snapshots = storage / "snapshots"
    snapshots.mkdir(parents=True)
    assert "hf download owner/name" in _message(storage)
    folder.rename(snapshots / "abc")
    for given in (storage, snapshots):
        assert f"give its snapshot {snapshots / 'abc'}" in _message(given)
    (snapshots / "def").mkdir()
    assert f"one of its 2 snapshots, such as {snapshots / 'abc'}" in _message(storage)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text("def")
    assert f"such as {snapshots / 'def'}" in _message(storage)
    assert "with 1 models: give an id, such as owner/name" in _message(tmp_path)
    model.load(snapshots / "abc")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_the_hub_cache_whose_reference_is_no_file(kind: str, tmp_path: Path) -> None:
    storage = tmp_path / "models--owner--name"
    for name in ("snapshots/abc", "snapshots/def", "refs"):
        (storage / name).mkdir(parents=True)
    replace_by(kind, storage / "refs" / "main")
    assert "models--owner--name" in _message(storage)


def test_a_file_cut_after_it_was_checked_is_refused(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(single.read_bytes())
    table = read_table(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(model.InputError, match=r"cut\.safetensors"):
        for _ in read_tensors(table.entries.items(), dtype=torch.float32, device=torch.device("cpu")):
            pass


@pytest.mark.parametrize("change", ["gone", "pipe", "device", "folder", "other shapes", "integers", "other names"])
def test_a_file_changed_after_it_was_checked_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "changed.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.zeros(4)}, path)
    table = read_table(path)
    if change in KINDS:
        replace_by(change, path)
    else:
        key, size, dtype = {
            "other shapes": ("b", 5, torch.float32),
            "integers": ("b", 4, torch.int32),
            "other names": ("c", 4, torch.float32),
        }[change]
        save_file({"a": torch.zeros(4), key: torch.zeros(size, dtype=dtype)}, path)
    with pytest.raises(model.InputError, match=r"changed\.safetensors"):
        list(read_tensors(table.entries.items(), dtype=torch.float32, device=torch.device("cpu")))


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
        assert _message(source).isprintable()
    edit_json(tmp_path / name / "folder" / "vae" / "config.json", act_fn="silu")
    assert _message(tmp_path / name / "folder").isprintable()


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    for number, head in enumerate((b"\xff" * 8, (2**40).to_bytes(8, "little"), (4).to_bytes(8, "little") + b"nul")):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(head + b"{" * 100)
        refused(path)
    text = json.dumps({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "big.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    refused(tmp_path / "big.safetensors")
