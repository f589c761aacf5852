"""Files that are damaged, misshaped, incomplete or something else are refused, in one line that says what to do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model.checkpoints import WEIGHTS, edit_json, edit_tensors, refused

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
INPUT = "model.diffusion_model.input_blocks.0.0.weight"
CONTEXT = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
TO_K = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({INPUT: (32, 9, 3, 3)}, "an inpainting model"),
        ({INPUT: (32, 8, 3, 3)}, "InstructPix2Pix"),
        ({CONTEXT: (32, 1024)}, "Stable Diffusion 2 "),
        ({CONTEXT: (32, 2048)}, "Stable Diffusion XL "),
        ({TO_K: (32, 63)}, f"{TO_K} has shape [32, 63] instead of [32, 64]"),
        ({INPUT: (32, 4)}, f"{INPUT} has shape [32, 4] instead of [32, 4, 3, 3]"),
        ({INPUT: (32,)}, f"{INPUT} has shape [32]: give an unmodified checkpoint"),
        ({"first_stage_model.decoder.mid.attn_1.q.weight": (64, 64, 3, 3)}, "attn_1.q.weight has shape [64, 64, 3, 3]"),
        ({f"{UNET}out.2.weight": (10**9, 0, 3, 3)}, "out.2.weight has shape [1000000000, 0, 3, 3] instead of"),
        ({f"{VAE}post_quant_conv.weight": (16, 16, 1, 1)}, "post_quant_conv.weight has shape [16, 16, 1, 1] instead"),
        ({f"{VAE}encoder.conv_in.weight": (32, 4, 3, 3)}, "encoder.conv_in.weight has shape [32, 4, 3, 3] instead of"),
        ({f"{TEXT}final_layer_norm.weight": (96,)}, "num_attention_heads 1.5 is not supported"),
        ({"strange.key": (1,)}, "unknown tensors (1: strange.key), not part of Stable Diffusion 1.x"),
        (
            {f"model_ema.x{number}": (1,) for number in range(5)},
            "unknown tensors (5: model_ema.x0, model_ema.x1, model_ema.x2, …)",
        ),
        ({"cond_stage_model.transformer.final_layer_norm.weight": (64,)}, "text encoder tensors given twice (1: "),
    ],
)
def test_misshaped_and_unknown_tensors_are_refused(
    changes: dict[str, tuple[int, ...]], reason: str, single: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changed.safetensors"
    save_file(load_file(single) | {key: torch.zeros(shape) for key, shape in changes.items()}, path)
    assert reason in refused(path)


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("model.diffusion_model.", "holds no UNet (no tensor named model.diffusion_model."),
        ("first_stage_model.", "holds no VAE (no tensor named first_stage_model."),
        ("cond_stage_model.", "holds no text encoder (no tensor named cond_stage_model.transformer."),
        ("model.diffusion_model.out.2.bias", "lacks 1 of 684 UNet tensors (model.diffusion_model.out.2.bias)"),
        ("first_stage_model.decoder.up.0.", "VAE tensors (first_stage_model.decoder.up.0."),
        ("model.diffusion_model.input_blocks.0.0.weight", "input_blocks.0.0.weight is missing"),
    ],
)
def test_single_files_with_missing_tensors_are_refused(prefix: str, reason: str, single: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_file({key: value for key, value in load_file(single).items() if not key.startswith(prefix)}, path)
    assert reason in refused(path)


def test_integer_weights_are_refused(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "quantised.safetensors"
    tensors = load_file(single)
    tensors[INPUT] = tensors[INPUT].to(torch.int8)
    save_file(tensors, path)
    assert f"{INPUT} has type I8" in refused(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".CKPT"])
def test_pickles_are_refused_unread(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"anything")
    message = refused(path)
    assert "a pickle" in message
    assert ".safetensors" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_with_another_name_are_refused(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if zipped:
        torch.save({"a": torch.zeros(2)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": 1}))
    assert "a pickle with another name" in refused(path)


def test_lfs_pointer_is_told(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167540\n"
    path = folder / WEIGHTS["unet"]
    path.unlink()
    path.write_bytes(pointer)
    assert "a Git LFS pointer" in refused(folder)
    assert "git lfs pull" in refused(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"hello", "damaged or cut short"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "damaged or cut short"),
        (b"\xff" * 64, "damaged or cut short"),
    ],
)
def test_files_that_are_no_safetensors_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert reason in refused(path)


@pytest.mark.parametrize("kept", [0.0001, 0.5, 0.999])
def test_truncated_files_are_refused(kept: float, single: Path, folder: Path, tmp_path: Path) -> None:
    content = single.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(content[: int(kept * len(content))])
    assert "damaged or cut short" in refused(path)
    weights = folder / WEIGHTS["vae"]
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[: int(kept * len(content))])
    assert f"{WEIGHTS['vae']}: damaged or cut short" in refused(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_unknown_and_missing_tensors_of_a_folder_are_refused(part: str, folder: Path) -> None:
    path = folder / WEIGHTS[part]
    removed = ""

    def remove(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal removed
        removed = sorted(tensors)[0]
        del tensors[removed]
        return tensors

    edit_tensors(path, remove)
    message = refused(folder)
    assert "lacks 1 of " in message
    assert removed in message
    edit_tensors(path, lambda tensors: tensors | {"odd.weight": torch.zeros(1)})
    assert "unknown tensors (1: odd.weight)" in refused(folder)


def test_shards_that_do_not_hold_what_the_index_says_are_refused(folder: Path, theirs) -> None:
    (folder / WEIGHTS["unet"]).unlink()
    theirs.unet.save_pretrained(folder / "unet", max_shard_size="500KB")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    shard_of = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=shard_of | {"conv_out.bias": shard_of["conv_in.bias"]})
    message = refused(folder)
    assert "does not hold what diffusion_pytorch_model.safetensors.index.json says (conv_out.bias)" in message
    edit_json(index, weight_map=shard_of | {"conv_out.bias": "../../vae/x.safetensors"})
    assert "not a file beside it" in refused(folder)
    edit_json(index, weight_map=shard_of)
    (folder / "unet" / shard_of["conv_in.bias"]).unlink()
    assert "no such file" in refused(folder)
    edit_json(index, weight_map=None)
    assert "has no weight_map" in refused(folder)
