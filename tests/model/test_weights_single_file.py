"""Single files in the original layout, under each name that a tensor may have: loaded, tensors equal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import model
from model.checkpoint.keys import VAE_INNER
from tests.model.checkpoints import SMALL, assert_holds, load_tensors, rename

pytestmark = pytest.mark.usefixtures("one_tokenizer")


def test_a_single_file_is_loaded(single: Path, theirs: SimpleNamespace) -> None:
    loaded = model.load(single)
    assert_holds(loaded, theirs)
    assert loaded.config == SMALL
    assert loaded.name == "small"


def test_a_single_file_is_converted(single: Path, theirs: SimpleNamespace) -> None:
    assert_holds(model.load(single, dtype=torch.float16), theirs, torch.float16)


def test_text_encoder_names_without_prefix(tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path) -> None:
    renamed = {key.replace("transformer.text_model.", "transformer."): value for key, value in tensors.items()}
    assert_holds(load_tensors(renamed, tmp_path), theirs)


def with_average(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors and, as their moving average, the same with another sign."""
    averaged = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): -value
        for key, value in tensors.items()
        if key.startswith("model.diffusion_model.")
    }
    assert "model_ema.diffusion_modelinput_blocks00weight" in averaged
    return tensors | averaged | {"model_ema.decay": torch.tensor(0.9999)}


def test_moving_average_beside_the_weights_is_passed_over(
    tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    assert_holds(load_tensors(with_average(tensors), tmp_path), theirs)


# The other names of the autoencoder's attention, and the original ones.
ORIGINAL = {
    **dict.fromkeys(("group_norm",), "norm"),
    **dict.fromkeys(("to_q", "query"), "q"),
    **dict.fromkeys(("to_k", "key"), "k"),
    **dict.fromkeys(("to_v", "value"), "v"),
    **dict.fromkeys(("to_out.0", "to_out", "proj_attn"), "proj_out"),
}


SHAPES = {
    "linear": lambda value: value.flatten(1) if value.ndim > 1 else value,
    "convolution": lambda value: value.flatten(1)[:, :, None, None] if value.ndim > 1 else value,
    # github.com/huggingface/diffusers/issues/6226
    "convolution throughout": lambda value: (value.flatten(1) if value.ndim > 1 else value)[..., None, None],
}


def test_the_names_of_the_autoencoder_s_attention_are_those_tried() -> None:
    names = {name for names in VAE_INNER.values() for name in names}
    assert names == {"nin_shortcut", *ORIGINAL, *ORIGINAL.values()}


@pytest.mark.parametrize("name", ORIGINAL)
def test_each_name_of_the_autoencoder_s_attention(
    name: str, tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    changed = rename(tensors, lambda key: key.replace(f".mid.attn_1.{ORIGINAL[name]}.", f".mid.attn_1.{name}."))
    assert sum(f".mid.attn_1.{name}." in key for key in changed) == 4
    assert_holds(load_tensors(changed, tmp_path), theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "names",
    [
        ("to_q", "to_k", "to_v", "to_out.0"),
        ("to_q", "to_k", "to_v", "to_out"),
        ("query", "key", "value", "proj_attn"),
        ("to_q", "to_k", "to_v", "proj_out"),
        ("q", "k", "v", "to_out.0"),
    ],
    ids="-".join,
)
def test_sets_of_names_that_converters_leave(
    names: tuple[str, ...], shape: str, tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    for original, name in zip(("q", "k", "v", "proj_out"), names, strict=True):
        tensors = rename(
            tensors,
            lambda key, original=original, name=name: key.replace(f".attn_1.{original}.", f".attn_1.{name}."),
        )
    found = {key: value for key, value in tensors.items() if ".mid.attn_1." in key and ".norm." not in key}
    assert len(found) == 16
    assert_holds(load_tensors(tensors | {key: SHAPES[shape](value) for key, value in found.items()}, tmp_path), theirs)


def test_each_tensor_under_two_names_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    twice = {
        key.replace(f".attn_1.{original}.", f".attn_1.{name}."): value.clone()
        for key, value in tensors.items()
        for name, original in ORIGINAL.items()
        if f".attn_1.{original}." in key
    }
    assert len(twice) == 4 * len(ORIGINAL)
    with pytest.raises(model.CheckpointError, match=rf"VAE tensors given twice \({len(twice)}: "):
        load_tensors(tensors | twice, tmp_path)
    key = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
    other = key.replace("text_model.", "")
    with pytest.raises(
        model.CheckpointError, match=rf"text encoder tensors given twice \(1: {key} and {other}|{other} and"
    ):
        load_tensors(tensors | {other: tensors[key].clone()}, tmp_path)
