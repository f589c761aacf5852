"""What cannot be loaded is refused by its name, in one line that says what to do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from tests.model.checkpoints import WEIGHTS, edit_json, edit_tensors

SCOPE = "Stainloom runs Stable Diffusion 1.x only"


def refused(source: Path | str) -> str:
    """The message, which must be one line that names the source's file."""
    with pytest.raises(model.InputError) as caught:
        model.load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert Path(source).name in message
    return message


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
        ("unet", {"in_channels": 7}, "from 7 to 4 channels"),
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
        ("unet", {"down_block_types": ["AttnDownBlock2D"] * 4}, "'AttnDownBlock2D' is not supported"),
        ("unet", {"down_block_types": ["DownBlock2D"] * 3}, "has 3 entries but block_out_channels 4"),
        ("unet", {"block_out_channels": [32, 64, -1, 64]}, "block_out_channels"),
        ("unet", {"norm_eps": "small"}, "norm_eps 'small' is not a positive number"),
        ("unet", {"_class_name": "UNet2DModel"}, "_class_name 'UNet2DModel'"),
        ("vae", {"_class_name": "VQModel"}, "_class_name 'VQModel'"),
        ("vae", {"act_fn": "relu"}, "act_fn 'relu' is not supported"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv False is not supported"),
        ("vae", {"shift_factor": 0.1159}, "shift_factor 0.1159 is not supported"),
        ("vae", {"latent_channels": 16}, "the VAE's latents have 16"),
        ("vae", {"scaling_factor": 0}, "scaling_factor 0 is not a positive number"),
        ("vae", {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "others than DownEncoderBlock2D"),
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
        ({"beta_schedule": "linear"}, "beta_schedule is 'linear'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
    ],
)
def test_other_schedules_are_refused(changes: dict, reason: str, folder: Path) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    assert reason in refused(folder)


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL (it has two text encoders)"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3 (a diffusion transformer"),
        ("FluxPipeline", "Flux (a diffusion transformer"),
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
        (["model.diffusion_model.joint_blocks.0.x"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.proj.weight"], "Flux"),
        (["cond_stage_model.model.ln_final.weight", "model.diffusion_model.x"], "Stable Diffusion 2"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA"),
        (["unet.down_blocks.0.attn1.processor.to_q_lora.down.weight", "lora_te_x"], "a LoRA"),
        (["unet.x.lora_A.weight"], "a LoRA"),
        (["emb_params"], "a textual-inversion embedding"),
        (["v_pred", "model.diffusion_model.x"], "a v-prediction model"),
        (["down_blocks.0.resnets.0.norm1.weight"], "a UNet alone"),
        (["input_blocks.0.0.weight"], "a UNet alone"),
        (["encoder.down_blocks.0.resnets.0.norm1.weight"], "a VAE alone"),
        (["encoder.down.0.block.0.norm1.weight", "decoder.up.0.block.0.norm1.weight"], "a VAE alone"),
        (["text_model.final_layer_norm.weight"], "a text encoder alone"),
        (["something.else"], "holds no UNet"),
    ],
)
def test_other_single_files_are_refused_by_name(keys: list[str], reason: str, tmp_path: Path) -> None:
    assert reason in refused(save(tmp_path / "other.safetensors", *keys))


def test_v_prediction_in_the_metadata_is_refused(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file(load_file(single), path, metadata={"modelspec.prediction_type": "v"})
    assert "a v-prediction model" in refused(path)


INPUT = "model.diffusion_model.input_blocks.0.0.weight"
TO_K = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({INPUT: (32, 9, 3, 3)}, "an inpainting model"),
        ({INPUT: (32, 8, 3, 3)}, "InstructPix2Pix"),
        ({TO_K: (32, 1024)}, "Stable Diffusion 2 "),
        ({TO_K: (32, 2048)}, "Stable Diffusion XL "),
        ({TO_K: (32, 63)}, f"{TO_K} has shape [32, 63] instead of [32, 64]"),
        ({INPUT: (32, 4)}, f"{INPUT} has shape [32, 4], not 4 dimensions"),
        ({"first_stage_model.decoder.mid.attn_1.q.weight": (64, 64, 3, 3)}, "attn_1.q.weight has shape [64, 64, 3, 3]"),
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


def test_folder_with_pickles_alone_is_refused(folder: Path) -> None:
    (folder / WEIGHTS["vae"]).unlink()
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"anything")
    assert "vae: holds only pickles (diffusion_pytorch_model.bin)" in refused(folder)


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


def test_part_of_a_folder_is_told_from_the_whole(folder: Path) -> None:
    assert "a UNet alone" in refused(folder / "unet")
    assert "a VAE alone" in refused(folder / "vae")
    assert "a text encoder alone" in refused(folder / "text_encoder")


def test_folders_with_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path / "empty")
    (tmp_path / "file").mkdir()
    save(tmp_path / "file" / "v1-5.safetensors", "x")
    assert "it holds v1-5.safetensors: give the file itself" in refused(tmp_path / "file")
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "v1-5.ckpt").write_bytes(b"anything")
    assert "holds only pickles (v1-5.ckpt)" in refused(tmp_path / "pickle")
    (tmp_path / "lora").mkdir()
    save(tmp_path / "lora" / "pytorch_lora_weights.safetensors", "x")
    assert "a LoRA" in refused(tmp_path / "lora")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("x")
    assert "unet/, vae/, text_encoder/ missing" in refused(tmp_path / "text")


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


def test_another_vocabulary_is_refused(folder: Path) -> None:
    tokenizer = model.load(folder).tokenizer
    (folder / "tokenizer").mkdir()
    vocabulary = folder / "tokenizer" / "vocab.json"
    vocabulary.write_text(json.dumps(tokenizer.vocabulary | {"<stain>": 49408}))
    assert "vocab.json: not CLIP's vocabulary" in refused(folder)
    vocabulary.unlink()
    merges = folder / "tokenizer" / "merges.txt"
    merges.write_text("#version: 0.2\na b\n")
    assert "merges.txt: not CLIP's merges" in refused(folder)
    merges.unlink()
    whole = folder / "tokenizer" / "tokenizer.json"
    whole.write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    assert "tokenizer.json: not CLIP's vocabulary" in refused(folder)
    whole.unlink()
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert "pads with '!'" in refused(folder)


def test_paths_that_do_not_exist_are_told(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "nowhere")
    assert "no such file or folder" in refused("nowhere")
    assert "no such file or folder" in refused("models/v1-5.safetensors")
    assert "no such file or folder" in refused("models/v1-5.ckpt")
