"""Other kinds of models are refused by their names, in one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import model
from tests.model.checkpoints import WEIGHTS, edit_json, refused

SCOPE = "Stainloom runs Stable Diffusion 1.x only"


def save(path: Path, *keys: str, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: torch.zeros(4, 4) for key in keys}, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("unet", {"cross_attention_dim": 1024}, "Stable Diffusion 2 "),
        ("unet", {"cross_attention_dim": 2048}, "Stable Diffusion XL "),
        ("unet", {"in_channels": 9}, "an inpainting model"),
        ("unet", {"in_channels": 8}, "InstructPix2Pix"),
        ("unet", {"in_channels": 7}, "in_channels 7 is not supported: Stable Diffusion 1.x has 4"),
        ("unet", {"act_fn": "gelu"}, "act_fn 'gelu' is not supported"),
        ("unet", {"use_linear_projection": True}, "use_linear_projection True is not supported"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type 'timestep' is not supported"),
        ("unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos False is not supported"),
        ("unet", {"freq_shift": 1}, "freq_shift 1 is not supported"),
        ("unet", {"transformer_layers_per_block": [1, 2, 10]}, "transformer_layers_per_block"),
        ("unet", {"time_cond_proj_dim": 256}, "time_cond_proj_dim 256 is not supported"),
        ("unet", {"something_new": "on"}, "something_new 'on' is not supported"),
        ("unet", {"attention_head_dim": [5, 10, 20, 20]}, "attention_head_dim"),
        ("unet", {"attention_head_dim": 7}, "attention_head_dim 7 does not divide the width 32"),
        ("unet", {"layers_per_block": "two"}, "layers_per_block 'two' is not supported"),
        ("unet", {"down_block_types": ["DownBlock2D"] * 4}, "do not mirror"),
        ("unet", {"down_block_types": ["AttnDownBlock2D"] * 4}, "'AttnDownBlock2D'] is not supported"),
        ("unet", {"down_block_types": ["DownBlock2D"] * 3}, "has 3 entries but block_out_channels 4"),
        ("unet", {"block_out_channels": [32, 64, -1, 64]}, "block_out_channels"),
        ("unet", {"block_out_channels": [33, 64, 64, 64]}, "even numbers"),
        ("unet", {"out_channels": 8}, "out_channels 8 is not supported"),
        ("unet", {"norm_eps": "small"}, "norm_eps 'small' is not supported: it must be from 1e-12 to 1.0"),
        ("unet", {"_class_name": "UNet2DModel"}, "_class_name 'UNet2DModel'"),
        ("vae", {"_class_name": "VQModel"}, "_class_name 'VQModel'"),
        ("vae", {"in_channels": 4}, "in_channels 4 is not supported: Stable Diffusion 1.x has 3"),
        ("vae", {"out_channels": 4}, "out_channels 4 is not supported"),
        ("vae", {"act_fn": "relu"}, "act_fn 'relu' is not supported"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv False is not supported"),
        ("vae", {"shift_factor": 0.1159}, "shift_factor 0.1159 is not supported"),
        ("vae", {"latent_channels": 16}, "latent_channels 16 is not supported: Stable Diffusion 1.x has 4"),
        ("vae", {"scaling_factor": 0}, "scaling_factor 0 is not supported: it must be from 0.0001 to 10000.0"),
        (
            "vae",
            {"down_block_types": ["AttnDownEncoderBlock2D"] * 4},
            "is not supported: it must be from 1 to 8 of DownEncoderBlock2D",
        ),
        ("text_encoder", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("text_encoder", {"model_type": "t5"}, "model_type 't5' is not supported"),
        ("text_encoder", {"vocab_size": 49409}, "vocab_size 49409 is not supported"),
        ("text_encoder", {"max_position_embeddings": 248}, "max_position_embeddings 248"),
        ("text_encoder", {"hidden_size": 128}, "128 wide but the UNet's context 64"),
    ],
)
def test_other_configurations_are_refused_by_key(part: str, changes: dict, reason: str, folder: Path) -> None:
    edit_json(folder / part / "config.json", **changes)
    assert reason in refused(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prediction_type": "v_prediction"}, f"a v-prediction model (its UNet predicts velocity, not noise); {SCOPE}"),
        ({"prediction_type": "sample"}, "prediction_type 'sample' is not supported"),
        ({"beta_schedule": "linear"}, "beta_schedule 'linear' is not supported"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr True is not supported"),
    ],
)
def test_other_schedules_are_refused(changes: dict, reason: str, folder: Path) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    assert reason in refused(folder)


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL (it has two text encoders)"),
        ("StableDiffusion3Pipeline", "a diffusion transformer (such as Stable Diffusion 3"),
        ("FluxPipeline", "a diffusion transformer (such as Stable Diffusion 3 or Flux)"),
    ],
)
def test_other_pipelines_are_refused_by_name(pipeline: str, reason: str, folder: Path) -> None:
    edit_json(folder / "model_index.json", _class_name=pipeline)
    message = refused(folder)
    assert reason in message
    assert SCOPE in message


@pytest.mark.parametrize(
    ("entry", "reason"), [("text_encoder_2", "Stable Diffusion XL"), ("transformer", "a diffusion transformer")]
)
def test_parts_of_other_models_are_refused(entry: str, reason: str, folder: Path) -> None:
    (folder / entry).mkdir()
    assert reason in refused(folder)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["conditioner.embedders.0.transformer.x"], "Stable Diffusion XL"),
        (["model.diffusion_model.joint_blocks.0.x"], "a diffusion transformer"),
        (["double_blocks.0.img_attn.proj.weight"], "a diffusion transformer"),
        (["cond_stage_model.model.ln_final.weight", "model.diffusion_model.x"], "Stable Diffusion 2"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA"),
        (["unet.down_blocks.0.attn1.processor.to_q_lora.down.weight"], "a LoRA"),
        (["unet.x.lora_A.weight"], "a LoRA"),
        (["emb_params"], "a textual-inversion embedding"),
        (["v_pred", "model.diffusion_model.x"], "a v-prediction model"),
        (["down_blocks.0.resnets.0.norm1.weight"], "holds no UNet"),
        (["input_blocks.0.0.weight"], "holds no UNet"),
        (["encoder.down_blocks.0.resnets.0.norm1.weight"], "holds no UNet"),
        (["encoder.down.0.block.0.norm1.weight", "decoder.up.0.block.0.norm1.weight"], "holds no UNet"),
        (["text_model.final_layer_norm.weight"], "holds no UNet"),
        (["something.else"], "holds no UNet"),
    ],
)
def test_other_single_files_are_refused_by_name(keys: list[str], reason: str, tmp_path: Path) -> None:
    assert reason in refused(save(tmp_path / "other.safetensors", *keys))


def test_v_prediction_in_the_metadata_is_refused(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file(load_file(single), path, metadata={"modelspec.prediction_type": "v"})
    assert "a v-prediction model" in refused(path)


def test_folder_with_pickles_alone_is_refused(folder: Path) -> None:
    (folder / WEIGHTS["vae"]).unlink()
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"anything")
    assert "vae: holds no diffusion_pytorch_model.safetensors, and pickles are never read" in refused(folder)


def test_folder_without_a_weight_file_is_refused(folder: Path) -> None:
    (folder / WEIGHTS["unet"]).unlink()
    assert "unet: holds no diffusion_pytorch_model.safetensors" in refused(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_folder_without_a_part_is_refused(part: str, folder: Path) -> None:
    (folder / part).rename(folder / "elsewhere")
    assert f"{part}/ missing" in refused(folder)


def test_folder_without_a_configuration_is_refused(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    assert "config.json: no such file" in refused(folder)


@pytest.mark.parametrize(("content", "reason"), [("{", "not a JSON file"), ("[1]", "not a JSON object")])
def test_broken_configurations_are_refused(content: str, reason: str, folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.unlink()
    path.write_text(content)
    assert reason in refused(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_part_of_a_folder_is_told_from_the_whole(part: str, folder: Path) -> None:
    assert "unet/, vae/, text_encoder/ missing: give a whole model's folder" in refused(folder / part)


@pytest.mark.parametrize("name", ["", "v1-5.safetensors", "v1-5.ckpt", "notes.txt"])
def test_folders_with_something_else_are_refused(name: str, tmp_path: Path) -> None:
    if name:
        (tmp_path / name).write_bytes(b"anything")
    message = refused(tmp_path)
    assert "unet/, vae/, text_encoder/ missing" in message
    assert "or a .safetensors file" in message


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_config.json"])
def test_folder_of_a_lora_is_refused(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, "x")
    assert "a LoRA" in refused(tmp_path)


def test_another_vocabulary_is_refused(folder: Path) -> None:
    tokenizer = model.load(folder).tokenizer
    (folder / "tokenizer").mkdir()
    vocabulary = folder / "tokenizer" / "vocab.json"
    vocabulary.write_text(json.dumps(tokenizer.vocabulary | {"<stain>": 49408}))
    assert "vocab.json: not of CLIP's tokenizer" in refused(folder)
    vocabulary.unlink()
    merges = folder / "tokenizer" / "merges.txt"
    merges.write_text("#version: 0.2\na b\n")
    assert "merges.txt: not of CLIP's tokenizer" in refused(folder)
    merges.unlink()
    whole = folder / "tokenizer" / "tokenizer.json"
    whole.write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    assert "tokenizer.json: not of CLIP's tokenizer" in refused(folder)
    whole.unlink()
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert "special_tokens_map.json: not of CLIP's tokenizer" in refused(folder)


def test_paths_that_do_not_exist_are_told(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "nowhere")
    assert "no such file or folder" in refused("nowhere")
    assert "no such file or folder" in refused("models/v1-5.safetensors")
    assert "no such file or folder" in refused("models/v1-5.ckpt")
