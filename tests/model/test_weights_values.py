"""Weights whose values or types no network can use: refused by file and tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from tests.model.checkpoints import WEIGHTS, edit_tensors, refusal, refused

pytestmark = pytest.mark.usefixtures("one_tokenizer", "at_once")


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
    with pytest.raises(model.CheckpointError) as caught:
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
    assert "holds NaN or infinity" in refusal(folder)


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
    with pytest.raises(model.CheckpointError, match=r"holds 7e\+04, too large for float16: take `dtype` bf16 or fp32"):
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
    message = refusal(folder)
    assert f"{folder / WEIGHTS[part]}: {key} has type " in message
    assert "16- or 32-bit floating point" in message
