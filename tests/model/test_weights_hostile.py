"""Weights in whose place something else is: bounded work and one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import model
from model.checkpoint.tensors import read_index, read_tensors
from tests.model.checkpoints import WEIGHTS, refusal
from tests.model.no_files import KINDS, replace_by

pytestmark = pytest.mark.usefixtures("one_tokenizer", "at_once")


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
    refusal(folder)


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
        refusal(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_the_schedule_s_place_is_refused_or_passed_over(kind: str, folder: Path) -> None:
    replace_by(kind, folder / "scheduler" / "scheduler_config.json")
    if kind == "gone":
        model.load(folder)
    else:
        assert "scheduler_config.json" in refusal(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors.index.json", "part.safetensors"])
def test_what_is_no_file_among_shards_is_refused_at_once(name: str, kind: str, folder: Path) -> None:
    whole = folder / WEIGHTS["unet"]
    shard_of = dict.fromkeys(load_file(whole), "part.safetensors")
    whole.rename(whole.with_name("part.safetensors"))
    index = whole.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": shard_of}))
    replace_by(kind, whole.with_name(name))
    assert name in refusal(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_what_is_no_folder_in_a_part_s_place_is_refused_at_once(part: str, kind: str, folder: Path) -> None:
    (folder / part).rename(folder / "elsewhere")
    replace_by(kind, folder / part)
    assert part in refusal(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    replace_by(kind, path)
    refusal(path)


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
    refusal(source)


def test_a_folder_of_the_hub_cache_is_told_that_a_snapshot_is_wanted(folder: Path, tmp_path: Path) -> None:
    storage = tmp_path / "models--owner--name"
    (storage / "snapshots").mkdir(parents=True)
    for given in (storage, storage / "snapshots", tmp_path):
        assert "(in a Hugging Face cache, one in snapshots)" in refusal(given)
    folder.rename(storage / "snapshots" / "abc")
    model.load(storage / "snapshots" / "abc")


def test_a_file_cut_after_it_was_checked_is_refused(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(single.read_bytes())
    table = read_index(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(model.CheckpointError, match=r"cut\.safetensors"):
        for _ in read_tensors(table.entries.items(), dtype=torch.float32, device=torch.device("cpu")):
            pass


@pytest.mark.parametrize("change", ["gone", "pipe", "device", "folder", "other shapes", "integers", "other names"])
def test_a_file_changed_after_it_was_checked_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "changed.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.zeros(4)}, path)
    table = read_index(path)
    if change in KINDS:
        replace_by(change, path)
    else:
        key, size, dtype = {
            "other shapes": ("b", 5, torch.float32),
            "integers": ("b", 4, torch.int32),
            "other names": ("c", 4, torch.float32),
        }[change]
        save_file({"a": torch.zeros(4), key: torch.zeros(size, dtype=dtype)}, path)
    with pytest.raises(model.CheckpointError, match=r"changed\.safetensors"):
        list(read_tensors(table.entries.items(), dtype=torch.float32, device=torch.device("cpu")))
