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
from model.keys import SINGLE_FILE_CLUTTER, VAE_ORIGINAL_ATTENTION_ALSO
from model.tensors import read_table, read_tensors
from tests.model.checkpoints import WEIGHTS, edit_json, edit_tensors, refused
from tests.model.test_weights_single_file import assert_holds, load_tensors


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_values_that_are_not_finite_in_half_types_are_refused(dtype: torch.dtype, folder: Path) -> None:
    edit_tensors(folder / WEIGHTS["unet"], lambda tensors: {k: v.to(dtype) for k, v in tensors.items()})
    model.load(folder)
    edit_tensors(folder / WEIGHTS["unet"], put(float("nan"), 1))
    assert "NaN" in _message(folder) or "finite" in _message(folder)


def test_a_value_too_large_for_half_precision_is_told_apart(folder: Path) -> None:
    edit_tensors(folder / WEIGHTS["unet"], put(70000.0, 2))
    model.load(folder, dtype=torch.float32)
    with pytest.raises(model.InputError, match=r"float16.*(bf16|bfloat16)"):
        model.load(folder, dtype=torch.float16)


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
    "name", ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", *WEIGHTS.values()]
)
def test_what_is_no_file_inside_a_weights_folder_is_refused_at_once(name: str, kind: str, folder: Path) -> None:
    replace_by(kind, folder / name)
    _message(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["merges.txt", "vocab.json", "tokenizer_config.json"])
def test_what_is_no_file_among_small_files_is_refused_or_passed_over(name: str, kind: str, folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    replace_by(kind, folder / "tokenizer" / name)
    if kind == "gone":
        model.load(folder)
    else:
        _message(folder)


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
    ],
    ids=lambda source: repr(source[:12]),
)
def test_a_source_that_can_be_nothing_is_refused_in_one_line(source: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _message(source)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"in_channels": ' + "9" * 5000 + "}",
        '{"norm_eps": 1e999}',
        '{"in_channels": NaN}',
        "\ufeff{}",
        '{"a": 1, "a": 2}',
        " " * (17 * 2**20),
        "null",
        "",
    ],
    ids=lambda text: repr(text[:16]),
)
@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json"])
def test_json_that_no_program_wrote_is_refused(name: str, text: str, folder: Path) -> None:
    if name == "model_index.json" and text.startswith(('{"in', '{"norm')):
        pytest.skip("keys that this file does not have")
    (folder / name).unlink()
    (folder / name).write_text(text)
    assert name.split("/")[-1] in _message(folder)


def test_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "config.json").write_bytes(b'{"in_channels": "\xff"}')
    assert "not UTF-8" in _message(folder)


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
    ("unet", {"layers_per_block": {"a": 1}}),
    ("unet", {"down_block_types": [[]] * 4}),
]


@pytest.mark.parametrize(("part", "changes"), ABSURD, ids=str)
def test_absurd_numbers_in_configurations_are_refused_by_name(
    part: str, changes: dict[str, object], folder: Path
) -> None:
    edit_json(folder / part / "config.json", **changes)
    assert any(name in _message(folder) for name in changes)


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
    model.load(snapshots / "abc")


def test_a_file_cut_after_it_was_checked_is_refused(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(single.read_bytes())
    table = read_table(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(model.InputError, match=r"cut\.safetensors"):
        for _ in read_tensors(table.entries.items(), dtype=torch.float32, device=torch.device("cpu")):
            pass


@pytest.mark.parametrize("square", [False, True], ids=["linear", "convolution"])
@pytest.mark.parametrize(
    "names", [("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")], ids=str
)
def test_attention_of_the_autoencoder_by_the_names_that_converters_leave(names, square, single, theirs, tmp_path):
    ours = dict(zip(("q", "k", "v", "proj_out"), names, strict=True))

    def renamed(key: str) -> str:
        for old, new in ours.items():
            assert new in VAE_ORIGINAL_ATTENTION_ALSO
            key = key.replace(f".mid.attn_1.{old}.", f".mid.attn_1.{new}.")
        return key

    tensors = {renamed(key): value for key, value in load_file(single).items()}
    assert sum(f".attn_1.{names[0]}." in key for key in tensors) == 4
    for key, value in tensors.items():
        if ".mid.attn_1." in key and key.endswith(".weight") and value.ndim >= 2 and "norm" not in key:
            flat = value.flatten(1)
            tensors[key] = flat[:, :, None, None] if square else flat
    assert_holds(load_tensors(tensors, tmp_path), theirs)


@pytest.mark.parametrize("prefix", SINGLE_FILE_CLUTTER)
def test_what_training_leaves_behind_is_passed_over_and_hides_nothing(prefix, single, theirs, tmp_path):
    tensors = load_file(single)
    clutter = {f"{prefix}discriminator.main.0.weight": torch.zeros(3), f"{prefix}logvar": torch.zeros(())}
    assert_holds(load_tensors(tensors | clutter, tmp_path), theirs)
    lost = next(key for key in tensors if key.startswith("first_stage_model.decoder."))
    with pytest.raises(model.InputError, match="lacks 1 of"):
        load_tensors({k: v for k, v in tensors.items() if k != lost} | clutter, tmp_path)
    save_file({"conditioner.embedders.0.a": torch.zeros(1), **clutter}, tmp_path / "xl.safetensors")
    assert "Stable Diffusion XL" in refused(tmp_path / "xl.safetensors")


def test_a_tensor_under_two_names_is_refused(single, tmp_path):
    tensors = load_file(single)
    key = "first_stage_model.encoder.mid.attn_1.q.weight"
    twice = {**tensors, key.replace(".q.", ".to_q."): tensors[key].clone()}
    with pytest.raises(model.InputError, match="given twice"):
        load_tensors(twice, tmp_path)


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    for number, head in enumerate((b"\xff" * 8, (2**40).to_bytes(8, "little"), (4).to_bytes(8, "little") + b"nul")):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(head + b"{" * 100)
        refused(path)
    text = json.dumps({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "big.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    refused(tmp_path / "big.safetensors")
