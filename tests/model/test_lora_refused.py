"""LoRA files of other kinds, damaged ones and such as do not fit are refused in one line that names file and fix."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import model
from model.checkpoint.lora import Lora, find_updates, merging
from model.checkpoint.tensors import build_networks
from model.clip import TextEncoder
from model.errors import MOST_SHOWN
from model.unet import UNet
from tests.model.checkpoints import SMALL
from tests.model.lora_files import RANK, kohya, peft, random_pairs, write

pytestmark = pytest.mark.usefixtures("one_tokenizer", "at_once")

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
K2 = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_mid_block_resnets_0_conv1"
FC = "lora_te_text_model_encoder_layers_0_mlp_fc1"
SCOPE = "only plain LoRA and LoCon for Stable Diffusion 1.x can be merged"
WIDTH = SMALL.unet.block_out_channels[-1]


@pytest.fixture
def plain(theirs: SimpleNamespace) -> dict[str, Tensor]:
    """A sound file's tensors: three layers in kohya's layout."""
    pairs = random_pairs(theirs)
    names = [
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("unet", "mid_block.resnets.0.conv1"),
        ("text_encoder", "encoder.layers.0.mlp.fc1"),
    ]
    return kohya({name: pairs[name] for name in names}, 2.0)


@pytest.fixture(scope="session")
def networks() -> tuple[UNet, TextEncoder]:
    """Those that LoRAs are for, without weights: what does not fit is refused before any is read."""
    unet, _, text_encoder = build_networks(SMALL)
    return unet, text_encoder


def refusal(networks: tuple[UNet, TextEncoder], lora: Path) -> model.CheckpointError:
    """The error, which is one line that names the LoRA."""
    with pytest.raises(model.CheckpointError) as caught:
        find_updates([Lora(lora)], *networks)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1200
    assert lora.name in message
    return caught.value


def test_the_plain_file_itself_is_taken(plain: dict[str, Tensor], written: Path, tmp_path: Path) -> None:
    model.load(written, loras=[Lora(write(tmp_path / "a.safetensors", plain))])


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (f"{Q}.dora_scale", "a DoRA"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_magnitude_vector", "a DoRA"),
        (f"{Q}.hada_w1_a", "LoHa"),
        (f"{Q}.lokr_w1", "LoKr"),
        (f"{Q}.oft_blocks", "OFT or BOFT"),
        (f"{Q}.oft_diag", "OFT or BOFT"),
        (f"{Q}.on_input", "(IA)³"),
        (f"{Q}.a1.weight", "GLoRA"),
        (f"{CONV}.lora_mid.weight", "a LoCon in CP decomposition"),
        (f"{Q}.diff", "a LyCORIS with whole differences"),
        (f"{Q}.diff_b", "a LyCORIS with whole differences"),
        ("lora_unet_conv_norm_out.w_norm", "a LyCORIS with whole differences"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.bias", "a LoRA with biases"),
        ("bundle_emb.word.string_to_param.*", "a LoRA with words of its own"),
        ("lora_controlnet", "a LoRA of a ControlNet"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "for a diffusion transformer"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "for a diffusion transformer"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "for Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight", "for Stable Diffusion XL"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "for Stable Diffusion XL"),
        ("base_model.model.mid_block.attentions.0.proj_in.lora_A.weight", "PEFT's own layout"),
        ("model.diffusion_model.out.2.weight", "a whole model (give it as `weights`)"),
    ],
)
def test_other_kinds_are_refused_by_name(
    key: str, what: str, plain: dict[str, Tensor], networks, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", plain | {key: torch.zeros(RANK, 4)})
    message = str(refusal(networks, path))
    assert f"this is {what}" in message
    assert SCOPE in message


@pytest.mark.parametrize(
    ("context", "what"), [(1024, "for Stable Diffusion 2;"), (2048, "for Stable Diffusion XL;")], ids=["2", "xl"]
)
@pytest.mark.parametrize(
    "key",
    [
        f"{K2}.lora_down.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight",
    ],
)
def test_other_widths_of_text_are_refused_by_name(context: int, what: str, key: str, networks, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {key: torch.zeros(RANK, context)})
    assert f"this is {what}" in str(refusal(networks, path))


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "for Stable Diffusion XL"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "for Stable Diffusion 2"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "for a diffusion transformer"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "for Stable Diffusion XL"),
        ({"ss_base_model_version": "sd_v2_768_v"}, "for Stable Diffusion 2"),
        ({"ss_v2": "True"}, "for Stable Diffusion 2"),
    ],
)
def test_files_that_say_they_are_for_others_are_refused(
    metadata: dict[str, str], what: str, plain: dict[str, Tensor], networks, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", plain, metadata)
    assert f"this is {what}" in str(refusal(networks, path))
    known = {"modelspec.architecture": "stable-diffusion-v1/lora", "ss_base_model_version": "sd_1.5", "ss_v2": "False"}
    assert find_updates([Lora(write(tmp_path / "b.safetensors", plain, known))], *networks)["unet"]


def test_tensors_left_over_are_listed_each(plain: dict[str, Tensor], networks, tmp_path: Path) -> None:
    odd = [f"lora_unet_mid_block_attentions_7_proj_in.lora_{way}.weight" for way in ("down", "up")]
    odd += ["norm.weight", "two\nlines", f"{Q}.lora_down.bias"]
    path = write(tmp_path / "a.safetensors", plain | {key: torch.zeros(4, 4) for key in odd})
    error = refusal(networks, path)
    assert f"5 of {len(plain) + 5} tensors are for no layer of this model" in str(error)
    assert sorted(error.problems) == sorted(
        f"{path}: left over: {key if key.isprintable() else repr(key)}" for key in odd
    )
    many = {f"odd.{number}": torch.zeros(1) for number in range(MOST_SHOWN + 3)}
    error = refusal(networks, write(path, plain | many))
    assert len(error.problems) == MOST_SHOWN + 1
    assert error.problems[-1] == "and 3 more"


@pytest.mark.parametrize("lost", ["lora_down.weight", "lora_up.weight"])
def test_half_a_pair_is_refused(lost: str, plain: dict[str, Tensor], networks, tmp_path: Path) -> None:
    del plain[f"{Q}.{lost}"]
    message = str(refusal(networks, write(tmp_path / "a.safetensors", plain)))
    assert "lacks the other half of 1 tensors" in message
    assert Q in message


def test_an_alpha_alone_is_refused(plain: dict[str, Tensor], networks, tmp_path: Path) -> None:
    tensors = {key: value for key, value in plain.items() if key.endswith("alpha")}
    assert "lacks the other half of 3 tensors" in str(refusal(networks, write(tmp_path / "a.safetensors", tensors)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({f"{Q}.lora_up.weight": (WIDTH, RANK + 1)}, f"has shape [{WIDTH}, {RANK + 1}]: it must be [{WIDTH}, {RANK}]"),
        ({f"{Q}.lora_down.weight": (RANK, WIDTH + 1)}, f"it must be [{RANK}, {WIDTH}]"),
        ({f"{Q}.lora_down.weight": (WIDTH, RANK), f"{Q}.lora_up.weight": (RANK, WIDTH)}, "attn1_to_q.lora_down.weight"),
        ({f"{Q}.lora_down.weight": (0, WIDTH), f"{Q}.lora_up.weight": (WIDTH, 0)}, "a rank of 1 or more"),
        ({f"{Q}.lora_down.weight": ()}, "a rank of 1 or more"),
        ({f"{Q}.lora_down.weight": (RANK,)}, f"has shape [{RANK}]"),
        ({f"{Q}.lora_down.weight": (RANK, WIDTH, 3, 3)}, f"has shape [{RANK}, {WIDTH}, 3, 3]"),
        ({f"{CONV}.lora_down.weight": (RANK, WIDTH, 1, 1)}, f"it must be [{RANK}, {WIDTH}, 3, 3]"),
        ({f"{CONV}.lora_down.weight": (RANK, WIDTH)}, f"it must be [{RANK}, {WIDTH}, 3, 3]"),
        ({f"{CONV}.lora_down.weight": (RANK, WIDTH * 9)}, f"it must be [{RANK}, {WIDTH}, 3, 3]"),
        ({f"{CONV}.lora_up.weight": (WIDTH, RANK, 3, 3)}, f"it must be [{WIDTH}, {RANK}]"),
        ({f"{FC}.lora_up.weight": (95, RANK)}, "fc1.lora_up.weight has shape [95, 4]: it must be [96, 4]"),
        ({f"{Q}.alpha": (2,)}, f"{Q}.alpha has shape [2] and type F32: it must be one number"),
        ({f"{Q}.alpha": (0,)}, "it must be one number"),
        ({f"{Q}.alpha": (RANK, WIDTH)}, "it must be one number"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    changes: dict[str, tuple[int, ...]], reason: str, plain: dict[str, Tensor], networks, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", plain | {key: torch.ones(shape) for key, shape in changes.items()})
    assert reason in str(refusal(networks, path))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_other_types_are_refused(dtype: torch.dtype, plain: dict[str, Tensor], networks, tmp_path: Path) -> None:
    key = f"{Q}.lora_up.weight"
    message = str(refusal(networks, write(tmp_path / "a.safetensors", plain | {key: plain[key].to(dtype)})))
    assert f"{key} has type " in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", [f"{Q}.lora_up.weight", f"{CONV}.lora_down.weight", f"{FC}.alpha"])
def test_values_that_are_not_finite_are_refused(
    bad: float, key: str, plain: dict[str, Tensor], networks, tmp_path: Path
) -> None:
    plain[key].view(-1)[-1] = bad
    path = write(tmp_path / "a.safetensors", plain)
    for weight in (1.0, 0.0):
        with pytest.raises(model.CheckpointError, match="holds NaN or infinity") as caught:
            merge_all(Lora(path, weight), networks)
        assert f"{path}: {key}" in str(caught.value)


def merge_all(lora: Lora, networks: tuple[UNet, TextEncoder]) -> None:
    """Into zeros."""
    for updates, network in zip(find_updates([lora], *networks).values(), networks, strict=True):
        for name in updates:
            merging(updates)(name, torch.zeros(network.state_dict()[name].shape))


def test_an_alpha_beyond_all_ranks_is_refused(plain: dict[str, Tensor], networks, tmp_path: Path) -> None:
    for value in (1e7, -1e30):
        path = write(tmp_path / "a.safetensors", plain | {f"{Q}.alpha": torch.tensor(value)})
        assert "no LoRA has an alpha beyond" in str(refusal(networks, path))


def test_sums_too_large_for_the_type_are_refused(plain: dict[str, Tensor], written: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", plain | {f"{Q}.alpha": torch.tensor(1e6)})
    with pytest.raises(model.CheckpointError, match="gets too large for float16 with `lora`: give smaller weights"):
        model.load(written, dtype=torch.float16, loras=[Lora(path, 10.0)])


def test_a_layer_twice_in_two_layouts_is_refused(
    plain: dict[str, Tensor], theirs: SimpleNamespace, networks, tmp_path: Path
) -> None:
    name = ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    path = write(tmp_path / "a.safetensors", plain | peft({name: random_pairs(theirs)[name]}))
    message = str(refusal(networks, path))
    assert "tensors given twice (2: " in message
    assert f"{Q}.lora_down.weight" in message
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight" in message


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "no JSON object"),
        ({"unet.r": 4}, "the unet's alpha is None"),
        ({"unet.lora_alpha": "4"}, "the unet's alpha is '4'"),
        ({"unet.lora_alpha": True}, "the unet's alpha is True"),
        ({"unet.lora_alpha": 1e9}, "the unet's alpha is 1000000000.0"),
        ({"unet.lora_alpha": float("nan")}, "the unet's alpha is nan"),
        ({"unet.lora_alpha": 10**400}, "the unet's alpha is 1000000"),
        ({"unet.lora_alpha": 4, "unet.alpha_pattern": [1]}, "is no table of layers"),
        ({"unet.lora_alpha": 4, "unet.alpha_pattern": {"(a+)+$": 1}}, "is no table of layers"),
        ({"unet.lora_alpha": 4, "unet.alpha_pattern": {"to_q": None}}, "the unet's alpha is None"),
        ({"unet.lora_alpha": 4, "unet.use_dora": True}, "the unet's use_dora True is not supported"),
        ({"text_encoder.lora_alpha": 4, "text_encoder.lora_bias": True}, "the text_encoder's lora_bias True"),
        ({"unet.lora_alpha": 4, "unet.init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(
    config: object, reason: str, theirs: SimpleNamespace, networks, tmp_path: Path
) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    path = write(tmp_path / "a.safetensors", peft(random_pairs(theirs)), {"lora_adapter_metadata": text})
    assert reason in str(refusal(networks, path))


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth"])
def test_pickles_are_refused_unread(suffix: str, networks, tmp_path: Path) -> None:
    path = tmp_path / f"lora{suffix}"
    torch.save({"x": torch.zeros(1)}, path)
    assert "a pickle" in str(refusal(networks, path))
    renamed = path.rename(tmp_path / "lora.safetensors")
    assert "a pickle with another name" in str(refusal(networks, renamed))


def test_files_that_are_none_are_refused(networks, tmp_path: Path) -> None:
    assert "no such LoRA" in str(refusal(networks, tmp_path / "missing.safetensors"))
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "not a regular file" in str(refusal(networks, tmp_path / "pipe.safetensors"))
    (tmp_path / "empty.safetensors").touch()
    assert "the file is empty" in str(refusal(networks, tmp_path / "empty.safetensors"))
    assert "holds no tensors" in str(refusal(networks, write(tmp_path / "none.safetensors", {})))
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "other.safetensors", {"a": torch.zeros(1)})
    assert "a folder without pytorch_lora_weights.safetensors, but other.safetensors" in str(refusal(networks, folder))
    with pytest.raises(ValueError, match="must be a finite number, not nan"):
        find_updates([Lora(tmp_path / "none.safetensors", float("nan"))], *networks)
