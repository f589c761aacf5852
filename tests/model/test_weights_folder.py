"""Diffusers folders, as diffusers and transformers write them and as they are published: loaded, tensors equal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from model.checkpoint.folder import needed_files
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from tests.model.checkpoints import (
    PARTS,
    SMALL,
    WEIGHTS,
    assert_holds,
    copy_folder,
    edit_json,
    edit_tensors,
    rename,
    their_modules,
    write_folder,
)

OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def move(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def test_what_the_libraries_save_is_loaded(folder: Path, theirs: SimpleNamespace) -> None:
    loaded = model.load(folder)
    assert_holds(loaded, theirs)
    assert loaded.config == SMALL
    assert loaded.name == "small"


def test_loaded_networks_are_ready_for_inference(written: Path) -> None:
    loaded = model.load(str(written))
    for part in PARTS:
        module = getattr(loaded, part)
        assert not module.training
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())
    ids = loaded.tokenizer(["colon"])
    context = loaded.text_encoder(ids)
    latents = loaded.vae.encode(torch.zeros(1, 3, 64, 64))
    assert loaded.unet(latents, 1, context).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_converted_to_the_type_asked_for(
    dtype: torch.dtype, written: Path, theirs: SimpleNamespace
) -> None:
    assert_holds(model.load(written, dtype=dtype), theirs, dtype)


def test_loading_does_not_start_the_compiler(written: Path) -> None:
    program = (
        f"import sys, model; model.load({str(written)!r}); assert not {{'sympy', 'torch._dynamo'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)


def test_integer_type_is_refused(written: Path) -> None:
    with pytest.raises(ValueError, match="dtype must be one of"):
        model.load(written, dtype=torch.int32)


def test_loaded_weights_do_not_hang_on_the_file(folder: Path, theirs: SimpleNamespace) -> None:
    loaded = model.load(folder)
    for name in WEIGHTS.values():
        path = folder / name
        size = path.stat().st_size
        path.unlink()
        path.write_bytes(b"\0" * size)
    assert_holds(loaded, theirs)


def test_other_architecture_numbers_come_from_the_configuration(tmp_path: Path) -> None:
    config = ModelConfig(
        unet=UNetConfig(
            block_out_channels=(12, 24),
            attention=(True, False),
            layers_per_block=1,
            num_heads=3,
            cross_attention_dim=20,
            groups=6,
        ),
        vae=VAEConfig(block_out_channels=(4, 8), layers_per_block=1, groups=2),
        text=TextConfig(width=20, mlp_width=36, layers=1, num_heads=5),
    )
    from diffusers import UNet2DConditionModel

    theirs = their_modules(SMALL)
    small = their_modules(ModelConfig(vae=config.vae, text=config.text, unet=SMALL.unet))
    theirs.vae, theirs.text_encoder = small.vae, small.text_encoder
    theirs.unet = UNet2DConditionModel(
        block_out_channels=(12, 24),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=3,
        cross_attention_dim=20,
        norm_num_groups=6,
    )
    loaded = model.load(write_folder(tmp_path / "other", theirs))
    assert loaded.config == config
    assert_holds(loaded, theirs)


@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
def test_a_folder_with_one_variant_alone_is_loaded(variant: str, folder: Path, theirs: SimpleNamespace) -> None:
    for name in WEIGHTS.values():
        move(folder / name, Path(name).name.replace(".safetensors", f".{variant}.safetensors"))
    assert_holds(model.load(folder), theirs)


def test_the_plain_file_comes_before_its_variants(folder: Path, theirs: SimpleNamespace) -> None:
    for name in WEIGHTS.values():
        for variant in ("fp16", "non_ema"):
            tensors = load_file(folder / name)
            wrong = {key: torch.full_like(value, 7) for key, value in tensors.items()}
            save_file(wrong, folder / name.replace(".safetensors", f".{variant}.safetensors"))
    assert_holds(model.load(folder), theirs)


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_written_by_diffusers_are_loaded(variant: str, folder: Path, theirs: SimpleNamespace) -> None:
    (folder / WEIGHTS["unet"]).unlink()
    theirs.unet.save_pretrained(folder / "unet", max_shard_size="500KB", variant=variant or None)
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2
    assert_holds(model.load(folder), theirs)


def test_shards_of_the_text_encoder_are_loaded(folder: Path, theirs: SimpleNamespace) -> None:
    (folder / WEIGHTS["text_encoder"]).unlink()
    theirs.text_encoder.save_pretrained(folder / "text_encoder", max_shard_size="100KB")
    assert (folder / "text_encoder" / "model.safetensors.index.json").exists()
    assert_holds(model.load(folder), theirs)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoder_names_with_and_without_prefix(
    prefix: str, positions: bool, folder: Path, theirs: SimpleNamespace
) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        named = rename(tensors, lambda key: prefix + key.removeprefix("text_model."))
        return named | ({f"{prefix}embeddings.position_ids": torch.arange(77)[None]} if positions else {})

    edit_tensors(folder / WEIGHTS["text_encoder"], change)
    assert_holds(model.load(folder), theirs)


@pytest.mark.parametrize("convolution", [False, True])
def test_old_attention_names_of_the_vae(convolution: bool, folder: Path, theirs: SimpleNamespace) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {}
        for key, value in tensors.items():
            for new, name in OLD_ATTENTION.items():
                if f"attentions.0.{new}." in key:
                    key = key.replace(new, name)
                    value = value[:, :, None, None].contiguous() if convolution and value.ndim == 2 else value
            old[key] = value
        assert len(old.keys() - tensors.keys()) == 16
        return old

    edit_tensors(folder / WEIGHTS["vae"], change)
    assert_holds(model.load(folder), theirs)


def test_scaling_factor_is_read_and_has_its_published_default(folder: Path) -> None:
    edit_json(folder / "vae" / "config.json", scaling_factor=0.5)
    assert model.load(folder).config.vae.scaling == 0.5
    edit_json(folder / "vae" / "config.json", scaling_factor=None)
    assert model.load(folder).config.vae.scaling == 0.18215


def test_lists_of_one_number_for_every_level_are_read(folder: Path, theirs: SimpleNamespace) -> None:
    edit_json(folder / "unet" / "config.json", attention_head_dim=[8, 8, 8, 8], layers_per_block=[2, 2, 2, 2])
    assert_holds(model.load(folder), theirs)


def test_configuration_files_of_the_first_release_are_read(folder: Path, theirs: SimpleNamespace) -> None:
    """As in Stable Diffusion 1.4: few keys, and token ids that are wrong."""
    short = {
        "unet": "_class_name act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim "
        "down_block_types downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block "
        "mid_block_scale_factor norm_eps norm_num_groups out_channels sample_size up_block_types",
        "vae": "_class_name act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block "
        "out_channels sample_size up_block_types",
        "text_encoder": "architectures attention_dropout hidden_act hidden_size initializer_factor intermediate_size "
        "layer_norm_eps max_position_embeddings model_type num_attention_heads num_hidden_layers vocab_size",
    }
    for part, keys in short.items():
        path = folder / part / "config.json"
        edit_json(path, **dict.fromkeys(json.loads(path.read_text()).keys() - set(keys.split())))
    edit_json(folder / "text_encoder" / "config.json", bos_token_id=0, eos_token_id=2, pad_token_id=1)
    assert_holds(model.load(folder), theirs)


def test_keys_that_only_training_needs_are_passed_over(folder: Path, theirs: SimpleNamespace) -> None:
    edit_json(folder / "unet" / "config.json", decay=0.9999, inv_gamma=1.0, power=0.75, optimization_step=5000)
    assert_holds(model.load(folder), theirs)


def test_published_tokenizer_files_are_accepted(folder: Path, theirs: SimpleNamespace) -> None:
    tokenizer = model.load(folder).tokenizer
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokenizer.vocabulary))
    merges = "\n".join(" ".join(pair) for pair in tokenizer.merges)
    (folder / "tokenizer" / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    end = {"content": "<|endoftext|>", "normalized": True}
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"pad_token": end}))
    assert_holds(model.load(folder), theirs)


def test_tokenizer_saved_by_transformers_is_accepted(folder: Path, theirs: SimpleNamespace) -> None:
    from transformers import CLIPTokenizer

    ours = model.load(folder).tokenizer
    CLIPTokenizer(vocab=ours.vocabulary, merges=ours.merges).save_pretrained(folder / "tokenizer")
    assert_holds(model.load(folder), theirs)


def test_folder_wants_neither_index_nor_scheduler_nor_tokenizer(written: Path, tmp_path: Path) -> None:
    bare = copy_folder(written, tmp_path / "bare")
    (bare / "model_index.json").unlink()
    (bare / "scheduler" / "scheduler_config.json").unlink()
    (bare / "scheduler").rmdir()
    assert model.load(bare).name == "bare"


def test_needed_files_leave_variants_pickles_and_other_parts_on_the_hub() -> None:
    names = [
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "safety_checker/model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.fp16.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "v1-5-pruned.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert sorted(needed_files(names)) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
