"""What single files hold beside the networks: passed over by literal names, and never in the place of weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import model
from model.checkpoint.keys import SINGLE_FILE_CLUTTER, SINGLE_FILE_IGNORED
from tests.model.checkpoints import assert_holds, load_tensors, refused

pytestmark = pytest.mark.usefixtures("one_tokenizer")


CLUTTER = {
    "betas": torch.zeros(1000),
    "alphas_cumprod": torch.zeros(1000),
    "sqrt_recipm1_alphas_cumprod": torch.zeros(1000),
    "posterior_mean_coef2": torch.zeros(1000),
    "model_ema.decay": torch.tensor(0.9999),
    "model_ema.num_updates": torch.tensor(470000),
    "cond_stage_model.logit_scale": torch.tensor(4.6),
    "cond_stage_model.text_projection": torch.zeros(64, 64),
}


def test_clutter_of_published_files_is_ignored(
    tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    assert_holds(load_tensors(tensors | CLUTTER, tmp_path), theirs)


def test_every_ignored_name_is_passed_over_whatever_it_holds(
    tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    for ignored in (torch.full((3,), float("nan")), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(())):
        more = {key: ignored.clone() for key in SINGLE_FILE_IGNORED}
        assert_holds(load_tensors(tensors | more, tmp_path), theirs)


def test_names_are_ignored_as_a_whole_alone(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    more = {f"{key}.more": torch.zeros(1) for key in SINGLE_FILE_IGNORED}
    more |= {f"x.{key}": torch.zeros(1) for key in SINGLE_FILE_IGNORED}
    with pytest.raises(model.CheckpointError, match=rf"unknown tensors \({2 * len(SINGLE_FILE_IGNORED)}: "):
        load_tensors(tensors | more, tmp_path)


CLUTTER_NAMES = [
    "first_stage_model.loss.logvar",
    "first_stage_model.loss.discriminator.main.0.weight",
    "first_stage_model.loss.perceptual_loss.net.slice1.0.weight",
    "first_stage_model.loss.perceptual_loss.lin0.model.1.weight",
    "first_stage_model.model_ema.decay",
    "first_stage_model.model_ema.num_updates",
    "first_stage_model.model_ema.encoderconv_inweight",
    "embedding_manager.embedder.transformer.text_model.embeddings.token_embedding.weight",
    "embedding_manager.string_to_param_dict.*",
]


def test_the_prefixes_of_clutter_are_those_tried() -> None:
    assert all(any(key.startswith(prefix) for key in CLUTTER_NAMES) for prefix in SINGLE_FILE_CLUTTER)


def test_what_training_leaves_behind_is_passed_over(
    tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    clutter = {key: torch.full((3,), float("nan")) for key in CLUTTER_NAMES}
    assert_holds(load_tensors(tensors | clutter, tmp_path), theirs)


@pytest.mark.parametrize("prefix", SINGLE_FILE_CLUTTER)
@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("model.diffusion_model.out.2.bias", "lacks 1 of "),
        ("first_stage_model.decoder.conv_out.bias", "lacks 1 of "),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "lacks 1 of "),
        ("first_stage_model.", "holds no VAE"),
        ("cond_stage_model.", "holds no text encoder"),
        ("model.diffusion_model.", "holds no UNet"),
    ],
)
def test_clutter_never_stands_for_what_is_missing(
    lost: str, reason: str, prefix: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    clutter = {f"{prefix}{key.partition('.')[2]}": value for key, value in tensors.items() if key.startswith(lost)}
    assert clutter
    kept = {key: value for key, value in tensors.items() if not key.startswith(lost)}
    with pytest.raises(model.CheckpointError, match=reason):
        load_tensors(kept | clutter, tmp_path)


@pytest.mark.parametrize("prefix", SINGLE_FILE_CLUTTER)
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("conditioner.embedders.0.transformer.x", "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "a diffusion transformer"),
        ("cond_stage_model.model.ln_final.weight", "Stable Diffusion 2"),
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA"),
        ("v_pred", "a v-prediction model"),
        ("something.else", "holds no UNet"),
    ],
)
def test_clutter_never_hides_another_kind_of_model(key: str, reason: str, prefix: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(1), f"{prefix}logvar": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert reason in refused(tmp_path / "other.safetensors")


def test_what_is_only_called_like_clutter_is_unknown(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    plain = [prefix.removesuffix(".") for prefix in SINGLE_FILE_CLUTTER]
    more = {key for name in plain for key in (name, f"{name}es.x", f"x.{name}.x")}
    with pytest.raises(model.CheckpointError, match=rf"unknown tensors \({len(more)}: "):
        load_tensors(tensors | {key: torch.zeros(1) for key in more}, tmp_path)
