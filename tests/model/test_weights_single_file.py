"""Single files in the original layout: names checked against the published manifest and diffusers' own conversion."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from model.checkpoint.fill import build_empty, match, refuse_unknown
from model.checkpoint.keys import (
    SINGLE_FILE_CLUTTER,
    SINGLE_FILE_IGNORED,
    VAE_ATTENTION,
    VAE_ORIGINAL_ATTENTION_ALSO,
    ema_name,
    text_folder,
    unet_original,
    vae_original,
)
from model.checkpoint.safetensors import CheckpointIndex, Entry
from model.checkpoint.single_file import Shapes
from model.clip import TextEncoder
from model.config import SD15
from model.unet import UNet
from model.vae import VAE
from tests.model.checkpoints import PARTS, SMALL, expected, refused, rename
from tests.model.originals import unet_name, vae_name

pytestmark = pytest.mark.usefixtures("one_tokenizer")

MANIFEST = Path(__file__).parents[1] / "data" / "sd15_single_file_keys.json.gz"
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


@pytest.fixture(scope="module")
def manifest() -> CheckpointIndex:
    """What the published v1-5-pruned-emaonly.safetensors holds."""
    path = Path("v1-5-pruned-emaonly.safetensors")
    shapes = json.loads(gzip.decompress(MANIFEST.read_bytes()))
    return CheckpointIndex(path, {key: Entry(path, key, tuple(shape), "F32") for key, shape in shapes.items()}, {})


@pytest.fixture
def tensors(single: Path) -> dict[str, Tensor]:
    return load_file(single)


def load_tensors(tensors: dict[str, Tensor], folder: Path, *, ema: bool = False) -> model.StableDiffusion:
    path = folder / "changed.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return model.load(path, ema=ema)


def assert_holds(loaded: model.StableDiffusion, theirs: SimpleNamespace, dtype: torch.dtype = torch.float32) -> None:
    """Every tensor of every part is theirs."""
    for part in PARTS:
        ours, wanted = getattr(loaded, part).state_dict(), expected(theirs, part)
        assert ours.keys() == wanted.keys()
        different = [key for key in ours if not torch.equal(ours[key], wanted[key].to(dtype))]
        assert not different, different


def test_a_single_file_is_loaded(single: Path, theirs: SimpleNamespace) -> None:
    loaded = model.load(single)
    assert_holds(loaded, theirs)
    assert loaded.config == SMALL
    assert loaded.name == "small"


def test_a_single_file_is_converted(single: Path, theirs: SimpleNamespace) -> None:
    assert_holds(model.load(single, dtype=torch.float16), theirs, torch.float16)


def test_every_published_key_fills_one_parameter_or_is_ignored(manifest: CheckpointIndex) -> None:
    assert Shapes(manifest).config() == SD15
    unet, vae = build_empty(lambda: UNet(SD15.unet)), build_empty(lambda: VAE(SD15.vae))
    text = build_empty(lambda: TextEncoder(SD15.text))
    names = {
        "model.diffusion_model.": unet_original(SD15.unet, unet.state_dict()),
        "first_stage_model.": vae_original(SD15.vae, vae.state_dict()),
        "cond_stage_model.transformer.": text_folder(text.state_dict()),
    }
    modules, counts, used = (unet, vae, text), (686, 248, 196), set()
    for (prefix, table), module, count in zip(names.items(), modules, counts, strict=True):
        found = match(manifest, prefix, module, {prefix + key: name for key, name in table.items()})
        assert len(found) == count
        used |= {entry.key for entry in found.values()}
    assert len(used) == 686 + 248 + 196
    ignored = manifest.entries.keys() - used
    assert ignored == {"cond_stage_model.transformer.text_model.embeddings.position_ids"}
    refuse_unknown(manifest, used | SINGLE_FILE_IGNORED)


def test_published_names_mean_what_diffusers_takes_them_for(manifest: CheckpointIndex) -> None:
    """diffusers' own conversion, fed with a number in place of each tensor."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    numbers = {key: torch.full((2, 2, 1, 1), float(number)) for number, key in enumerate(manifest.entries)}
    keys = list(manifest.entries)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    converted = {
        "model.diffusion_model.": convert_ldm_unet_checkpoint(dict(numbers), unet.config),
        "first_stage_model.": convert_ldm_vae_checkpoint(dict(numbers), vae.config),
    }
    ours = {
        "model.diffusion_model.": unet_original(SD15.unet, build_empty(lambda: UNet(SD15.unet)).state_dict()),
        "first_stage_model.": vae_original(SD15.vae, build_empty(lambda: VAE(SD15.vae)).state_dict()),
    }
    for prefix, table in ours.items():
        theirs = {keys[int(value.flatten()[0])]: name for name, value in converted[prefix].items()}
        assert theirs == {prefix + key: name for key, name in table.items()}


def test_the_tests_own_renaming_agrees_with_the_tables(manifest: CheckpointIndex) -> None:
    unet = build_empty(lambda: UNet(SD15.unet)).state_dict()
    vae = build_empty(lambda: VAE(SD15.vae)).state_dict()
    assert {unet_name(name): name for name in unet} == unet_original(SD15.unet, unet)
    assert {vae_name(name): name for name in vae} == vae_original(SD15.vae, vae)


def test_clutter_of_published_files_is_ignored(
    tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    assert_holds(load_tensors(tensors | CLUTTER, tmp_path), theirs)


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


def test_moving_average_is_taken_when_asked_for(
    tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    loaded = load_tensors(with_average(tensors), tmp_path, ema=True)
    wanted = expected(theirs, "unet")
    assert all(torch.equal(value, -wanted[key]) for key, value in loaded.unet.state_dict().items())
    assert torch.equal(loaded.vae.encoder.conv_in.weight, expected(theirs, "vae")["encoder.conv_in.weight"])


def test_moving_average_is_passed_over_otherwise(
    tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    assert_holds(load_tensors(with_average(tensors), tmp_path), theirs)


def test_missing_moving_average_is_an_error(single: Path) -> None:
    with pytest.raises(model.CheckpointError, match=r"no moving-average \(EMA\) weights under model_ema\..*emaonly"):
        model.load(single, ema=True)


def test_incomplete_moving_average_is_an_error(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    averaged = with_average(tensors)
    del averaged["model_ema.diffusion_modelout2bias"]
    with pytest.raises(
        model.CheckpointError, match=r"lacks 1 of \d+ UNet tensors \(model_ema.diffusion_modelout2bias\)"
    ):
        load_tensors(averaged, tmp_path, ema=True)


def test_flattened_names_are_told_apart() -> None:
    names = unet_original(SD15.unet, build_empty(lambda: UNet(SD15.unet)).state_dict())
    assert len({ema_name(original) for original in names}) == len(names) == 686


ORIGINAL_ATTENTION = {ours: theirs for theirs, ours in VAE_ATTENTION.items()}
SHAPES = {
    "linear": lambda value: value.flatten(1) if value.ndim > 1 else value,
    "convolution": lambda value: value.flatten(1)[:, :, None, None] if value.ndim > 1 else value,
    # github.com/huggingface/diffusers/issues/6226
    "convolution throughout": lambda value: (value.flatten(1) if value.ndim > 1 else value)[..., None, None],
}


@pytest.mark.parametrize("name", [*VAE_ATTENTION, *VAE_ORIGINAL_ATTENTION_ALSO])
def test_each_name_of_the_autoencoder_s_attention(
    name: str, tensors: dict[str, Tensor], theirs: SimpleNamespace, tmp_path: Path
) -> None:
    original = ORIGINAL_ATTENTION[(VAE_ATTENTION | VAE_ORIGINAL_ATTENTION_ALSO)[name]]
    changed = rename(tensors, lambda key: key.replace(f".mid.attn_1.{original}.", f".mid.attn_1.{name}."))
    assert sum(f".mid.attn_1.{name}." in key for key in changed) == 4
    assert name in VAE_ATTENTION or changed.keys() != tensors.keys()
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
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
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


def test_each_tensor_under_two_names_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    twice = {
        key.replace(f".attn_1.{ORIGINAL_ATTENTION[ours]}.", f".attn_1.{name}."): value.clone()
        for key, value in tensors.items()
        for name, ours in VAE_ORIGINAL_ATTENTION_ALSO.items()
        if f".attn_1.{ORIGINAL_ATTENTION[ours]}." in key
    }
    assert len(twice) == 4 * len(VAE_ORIGINAL_ATTENTION_ALSO)
    with pytest.raises(model.CheckpointError, match=rf"VAE tensors given twice \({len(twice)}: "):
        load_tensors(tensors | twice, tmp_path)
    key = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
    other = key.replace("text_model.", "")
    with pytest.raises(
        model.CheckpointError, match=rf"text encoder tensors given twice \(1: {key} and {other}|{other} and"
    ):
        load_tensors(tensors | {other: tensors[key].clone()}, tmp_path)
