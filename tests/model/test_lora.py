"""LoRA files come to the weights that diffusers makes of them, and to what float64 says, in every layout."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import model
from model.checkpoint.lora import Lora
from model.checkpoint.lora_keys import layers_by_name
from model.checkpoint.tensors import build_networks
from model.config import SD15
from tests.model import lora_files
from tests.model.checkpoints import PARTS, assert_holds, expected
from tests.model.lora_files import LAYOUTS, RANK, Pairs, assert_as_fused, kohya, peft, random_pairs, write
from tests.model.originals import unet_name

pytestmark = pytest.mark.usefixtures("one_tokenizer")


def exact(theirs: SimpleNamespace, part: str, *added: tuple[Pairs, float]) -> dict[str, Tensor]:
    """W + scale · up·down in float64, by our names; of a convolution by the definition, position by position."""
    weights = {name: value.double() for name, value in expected(theirs, part).items()}
    for pairs, scale in added:
        for (where, name), (down, up) in pairs.items():
            if where != part:
                continue
            a, b = down.double(), up.double()
            change = b @ a if a.ndim == 2 else torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + scale * change
    return weights


def assert_exact(loaded: model.StableDiffusion, theirs: SimpleNamespace, *added: tuple[Pairs, float]) -> None:
    """Every weight is the float64 sum, rounded once: half a unit in the last place, and what float64's order costs."""
    for part in PARTS:
        ours, before = getattr(loaded, part).state_dict(), expected(theirs, part)
        changed = set()
        for name, wanted in exact(theirs, part, *added).items():
            limits = torch.finfo(ours[name].dtype)
            unit = limits.eps * wanted.abs().clamp_min(limits.smallest_normal)
            order = 2 * (RANK + 9) * torch.finfo(torch.float64).eps * (wanted.abs() + 1)
            assert ((ours[name].double() - wanted).abs() <= unit / 2 + order).all(), name
            if not torch.equal(ours[name], before[name].to(ours[name].dtype)):
                changed.add(name)
        assert changed == {f"{name}.weight" for pairs, _ in added for where, name in pairs if where == part}


def assert_all_as_fused(loaded: model.StableDiffusion, theirs: SimpleNamespace, merged: SimpleNamespace, rank: int):
    """All weights of all parts are diffusers', and some of the UNet's are changed."""
    changed = {
        part: assert_as_fused(
            getattr(loaded, part).state_dict(), expected(merged, part), expected(theirs, part).__getitem__, rank
        )
        for part in PARTS
    }
    assert changed["unet"] > 0
    assert changed["vae"] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_merged_weights_are_those_of_diffusers(
    layout: str, theirs: SimpleNamespace, written: Path, tmp_path: Path
) -> None:
    pairs = random_pairs(theirs)
    # diffusers leaves per-layer alphas out of account where they differ, so each part has one.
    alphas = ({"unet": 3.0, "text_encoder": 2.0},) if layout == "kohya" else ()
    path = write(tmp_path / "a.safetensors", LAYOUTS[layout](pairs, *alphas))
    loaded = model.load(written, loras=[Lora(path, 0.7)])
    assert_all_as_fused(loaded, theirs, lora_files.fused(theirs, (path, 0.7)), RANK)


def test_two_files_add_up_as_in_diffusers(theirs: SimpleNamespace, written: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.safetensors", kohya(random_pairs(theirs, 1, only="attn"), 2.0))
    other = write(tmp_path / "other.safetensors", peft(random_pairs(theirs, 2, rank=7)))
    loaded = model.load(written, loras=[Lora(one, 1.5), Lora(other, -0.5)])
    assert_all_as_fused(loaded, theirs, lora_files.fused(theirs, (one, 1.5), (other, -0.5)), 2 * (RANK + 7))


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_scales_in_metadata_are_those_of_diffusers(
    rank_stabilised: bool, theirs: SimpleNamespace, written: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = copy.deepcopy(theirs.unet)
    config = LoraConfig(
        r=RANK,
        lora_alpha=6,
        use_rslora=rank_stabilised,
        target_modules=["to_q", "to_out.0", "conv1"],
        alpha_pattern={"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 11, "conv1": 2.5},
        init_lora_weights="gaussian",
    )
    unet.add_adapter(config)
    torch.manual_seed(0)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "saved",
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=_collate_lora_metadata({"unet": unet})["unet_lora_adapter_metadata"],
    )
    path = tmp_path / "saved" / "pytorch_lora_weights.safetensors"
    loaded = model.load(written, loras=[Lora(tmp_path / "saved")])
    assert_all_as_fused(loaded, theirs, lora_files.fused(theirs, (path, 1.0)), RANK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_sums_are_rounded_once(dtype: torch.dtype, theirs: SimpleNamespace, single: Path, tmp_path: Path) -> None:
    pairs = random_pairs(theirs, 3)
    path = write(tmp_path / "a.safetensors", kohya(pairs, 6.0))
    assert_exact(model.load(single, dtype=dtype, loras=[Lora(path, -1.25)]), theirs, (pairs, -1.25 * 6.0 / RANK))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_other_types_are_taken_as_they_are(
    stored: torch.dtype, theirs: SimpleNamespace, written: Path, tmp_path: Path
) -> None:
    rounded = {key: (down.to(stored), up.to(stored)) for key, (down, up) in random_pairs(theirs, 4).items()}
    path = write(tmp_path / "a.safetensors", peft(rounded))
    assert_exact(model.load(written, loras=[Lora(path)]), theirs, (rounded, 1.0))


def test_each_layer_has_its_own_alpha_and_rank(theirs: SimpleNamespace, written: Path, tmp_path: Path) -> None:
    first, second = random_pairs(theirs, 5, only="to_q"), random_pairs(theirs, 6, only="to_v", rank=9)
    third = random_pairs(theirs, 7, only="fc1")
    whole = {key: value.to(torch.int64) if key.endswith("alpha") else value for key, value in kohya(second, 2).items()}
    path = write(tmp_path / "a.safetensors", {**kohya(first, 0.5), **whole, **kohya(third)})
    loaded = model.load(written, loras=[Lora(path)])
    assert_exact(loaded, theirs, (first, 0.5 / RANK), (second, 2 / 9), (third, 1.0))


def test_alpha_is_read_in_the_other_layouts_too(theirs: SimpleNamespace, written: Path, tmp_path: Path) -> None:
    pairs = random_pairs(theirs, 8, only="attn")
    for layout, ending in (("peft", ".alpha"), ("diffusers", ".alpha"), ("old diffusers", "_lora.alpha")):
        tensors = LAYOUTS[layout](pairs)
        pattern = r"(\.lora_[AB]|\.lora\.(down|up)|\.lora_linear_layer\.(down|up)|_lora\.(down|up))\.weight$"
        stems = {re.sub(pattern, "", key) for key in tensors}
        path = write(tmp_path / "a.safetensors", tensors | {stem + ending: torch.tensor([3.0]) for stem in stems})
        assert_exact(model.load(written, loras=[Lora(path)]), theirs, (pairs, 3.0 / RANK))


@pytest.mark.parametrize(
    "tensors",
    [
        lambda pairs: lora_files.old_diffusers(pairs, prefix=""),
        lambda pairs: kohya(pairs, text="lora_te1_text_model_"),
        lambda pairs: kohya(pairs, text="lora_te_"),
        lambda pairs: peft(pairs, text="text_encoder.text_model."),
        lambda pairs: {
            key: value.flatten(1) if value.shape[2:] == (1, 1) else value for key, value in peft(pairs).items()
        },
        lambda pairs: {
            key: value[:, :, None, None] if value.ndim == 2 else value for key, value in kohya(pairs).items()
        },
    ],
    ids=["processors alone", "te1", "te without text_model", "peft with text_model", "flat", "as convolutions"],
)
def test_variants_of_the_layouts_are_the_same(tensors, theirs: SimpleNamespace, written: Path, tmp_path: Path) -> None:
    pairs = random_pairs(theirs, 9, only="attn")
    path = write(tmp_path / "a.safetensors", tensors(pairs))
    assert_exact(model.load(written, loras=[Lora(path)]), theirs, (pairs, 1.0))


def test_original_block_names_are_the_same(theirs: SimpleNamespace, written: Path, tmp_path: Path) -> None:
    pairs = {key: value for key, value in random_pairs(theirs, 10).items() if key[0] == "unet"}
    tensors = {}
    for (_, name), (down, up) in pairs.items():
        start = "lora_unet_" + unet_name(f"{name}.weight").removesuffix(".weight").replace(".", "_")
        tensors |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up}
    path = write(tmp_path / "a.safetensors", tensors)
    assert_exact(model.load(written, loras=[Lora(path)]), theirs, (pairs, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_of_0_is_the_plain_model_to_the_bit(
    dtype: torch.dtype, theirs: SimpleNamespace, written: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", kohya(random_pairs(theirs), 4.0))
    assert_holds(model.load(written, dtype=dtype, loras=[Lora(path, 0.0), Lora(path, -0.0)]), theirs, dtype)


def test_a_file_and_its_negative_are_the_plain_model(theirs: SimpleNamespace, written: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", kohya(random_pairs(theirs), 4.0))
    assert_holds(model.load(written, loras=[Lora(path, 0.8), Lora(path, -0.8)]), theirs)


def test_no_two_layers_share_a_name() -> None:
    unet, _, text_encoder = build_networks(SD15)
    names = layers_by_name(unet, text_encoder)
    by_layer: dict[object, list[str]] = {}
    for name, layer in names.items():
        by_layer.setdefault(layer, []).append(name)
    modules = [
        module
        for network in (unet, text_encoder)
        for module in network.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    assert len(by_layer) == len(modules) == 282 + 72
    # kohya's by our place and by the original one (which may be one name), ours with and without `unet.`; in the text
    # encoder with and without `text_model.`: te, te1, and text_encoder.
    for layer, found in by_layer.items():
        assert len(found) >= (3 if layer.part == "unet" else 6), layer
