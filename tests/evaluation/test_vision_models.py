"""Encoders by timm: their own size and normalisation, transformers' vision transformers to the bit, damage refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from imaging.errors import InputError
from tests.fuzz.mutations import VALUES, mutate_bytes, seeds

timm = pytest.importorskip("timm", reason="the extra [evaluate]")
from evaluation.embedding.vision_models import VisionEncoder, load_encoder  # noqa: E402

CPU = torch.device("cpu")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 64}


def load(folder: Path) -> VisionEncoder:
    return load_encoder(str(folder), CPU, torch.float32)


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter)
    return model.eval()


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_timm(folder: Path, name: str = "vit_tiny_patch16_224", classes: int = 5, **arguments: Any) -> torch.nn.Module:
    """A model in timm's form, as it saves them for the hub."""
    given = TINY | arguments if name.startswith("vit") else arguments
    model = scrambled(timm.create_model(name, num_classes=classes, **given))
    saved = {key: value for key, value in given.items() if isinstance(value, int | str | float)}
    save_file(model.state_dict(), folder / "model.safetensors")
    side = given.get("img_size", 224)
    pretrained = {"input_size": [3, side, side], "mean": MEAN, "std": STD, "crop_pct": 1.0, "num_classes": classes}
    config = {"architecture": name, "num_classes": classes, "model_args": saved, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(config))
    return model


def normalised(image: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.mark.parametrize("written_by_timm", [True, False])
def test_a_folder_of_timms_is_its_own_model_with_its_own_normalisation(tmp_path: Path, written_by_timm: bool) -> None:
    model, image = save_timm(tmp_path), picture(64, 64)
    if written_by_timm:
        config = json.loads((tmp_path / "config.json").read_text())
        timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
        own = json.loads((tmp_path / "config.json").read_text())
        own["pretrained_cfg"] |= config["pretrained_cfg"]
        (tmp_path / "config.json").write_text(json.dumps(own))
    encoder = load(tmp_path)
    assert encoder.width == 24
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(normalised(image)), pre_logits=True)
    np.testing.assert_allclose(encoder(image), expected[0].numpy(), rtol=1e-5, atol=1e-6)
    assert encoder.description["preprocessing"]["mean"] == MEAN
    json.dumps(encoder.description)


def test_any_size_becomes_the_models_own(tmp_path: Path) -> None:
    save_timm(tmp_path)
    encoder, image = load(tmp_path), picture(96, 128)
    resized = Image.fromarray(image).resize((85, 64), Image.Resampling.BICUBIC)
    cut = np.asarray(resized)[:, 10:74]  # the middle 64 of 85
    np.testing.assert_allclose(encoder(image), encoder(cut.copy()), rtol=1e-3, atol=1e-3)


def test_a_model_without_pooling_gives_first_token_and_mean(tmp_path: Path) -> None:
    model, image = save_timm(tmp_path, classes=0, global_pool=""), picture(64, 64)
    encoder = load(tmp_path)
    with torch.inference_mode():
        tokens = model.forward_features(normalised(image))
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)[0]
    np.testing.assert_allclose(encoder(image), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_gated_layers_are_told_by_their_shapes(tmp_path: Path) -> None:
    """A configuration cannot name them; Virchow's and UNI 2's does not."""
    from timm.layers import SwiGLUPacked

    kinds = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 5.0}
    model, image = save_timm(tmp_path, **kinds), picture(64, 64)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(normalised(image)), pre_logits=True)
    np.testing.assert_allclose(load(tmp_path)(image), expected[0].numpy(), rtol=1e-5, atol=1e-6)


def test_networks_other_than_transformers_work_too(tmp_path: Path) -> None:
    save_timm(tmp_path, "resnet10t")
    encoder = load(tmp_path)
    assert encoder(picture(80, 70)).shape == (encoder.width,)


def save_transformers(folder: Path, kind: str, side: int, **config: Any) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers", reason="among the requirements of the tests")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    settings = getattr(transformers, f"{kind}Config")(**sizes, **config)
    model = scrambled(getattr(transformers, f"{kind}Model")(settings))
    model.save_pretrained(folder)
    preprocessing = {"size": {"height": side, "width": side}, "image_mean": MEAN, "image_std": STD, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return model


@pytest.mark.parametrize(
    ("kind", "side", "config"),
    [
        ("ViT", 32, {"image_size": 32, "patch_size": 16}),
        ("ViT", 32, {"image_size": 32, "patch_size": 16, "qkv_bias": False}),
        ("Dinov2", 28, {"image_size": 28, "patch_size": 14}),
        ("Dinov2", 42, {"image_size": 28, "patch_size": 14}),
        ("Dinov2", 28, {"image_size": 70, "patch_size": 14, "use_swiglu_ffn": True}),
        ("Dinov2WithRegisters", 42, {"image_size": 56, "patch_size": 14}),
    ],
)
def test_transformers_models_are_the_same(tmp_path: Path, kind: str, side: int, config: dict[str, Any]) -> None:
    model, image = save_transformers(tmp_path, kind, side, **config), picture(side, side)
    with torch.inference_mode():
        expected = model(normalised(image)).last_hidden_state[0, 0]
    np.testing.assert_allclose(load(tmp_path)(image), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_head_in_front_and_a_crop_are_understood(tmp_path: Path) -> None:
    """As classifiers are saved, with every name behind the model's; and DINOv2's usual resizing and crop."""
    model = save_transformers(tmp_path, "Dinov2", 28, image_size=28, patch_size=14)
    state = {f"dinov2.{key}": value for key, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(state | {"classifier.weight": torch.zeros(2, 48)}, tmp_path / "model.safetensors")
    preprocessing = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, "do_center_crop": True}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(preprocessing | {"image_mean": MEAN, "image_std": STD, "resample": 3}))
    image = picture(32, 32)
    with torch.inference_mode():
        expected = model(normalised(image[2:30, 2:30].copy())).last_hidden_state[0, 0]
    np.testing.assert_allclose(load(tmp_path)(image), expected.numpy(), rtol=1e-5, atol=1e-6)


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))

    return edit


def replaced(name: str, content: bytes | None) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return replace


def without_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    save_file(state, folder / "model.safetensors")


def with_a_tensor_more(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(state | {"encoder.layer.2.output.dense.bias": torch.zeros(24)}, folder / "model.safetensors")


def a_pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


PRE = "preprocessor_config.json"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no configuration": (replaced("config.json", None), "has no config.json"),
    "no weights": (replaced("model.safetensors", None), "has no model.safetensors (pickled weights are never read)"),
    "weights that are none": (replaced("model.safetensors", b"\x80\x04pickle"), "cannot be built from its files"),
    "a pipe": (a_pipe, "has no config.json"),
    "no JSON": (replaced("config.json", b"{"), "not JSON"),
    "deep JSON": (replaced("config.json", b"[" * 100_000), "too deeply nested"),
    "a list": (replaced("config.json", b"[]"), "not a JSON object"),
    "no preprocessing": (replaced(PRE, None), "its normalisation is unknown"),
    "no mean": (edited(PRE, image_mean="gone"), "no usable size, mean and deviation"),
    "a deviation of zero": (edited(PRE, image_std=[1, 0, 1]), "no usable size, mean and deviation"),
    "a mean that is none": (edited(PRE, image_mean=[float("nan"), 0, 0]), "no usable size, mean and deviation"),
    "a huge image": (edited(PRE, size={"height": 10**9, "width": 10**9}), "no usable size"),
    "no square": (edited(PRE, size={"height": 32, "width": 64}), "no usable size"),
    "another scale": (edited(PRE, rescale_factor=1.0), "does not bring pixels to 0..1"),
    "another kind": (edited("config.json", model_type="swin"), "model_type is 'swin', not one of vit, dinov2"),
    "a kind that is none": (edited("config.json", model_type=[1]), "model_type is [1]"),
    "another activation": (edited("config.json", hidden_act="relu"), "activation relu"),
    "patches that do not fit": (edited("config.json", patch_size=7), "no multiple of its patches of 7 px"),
    "endless layers": (edited("config.json", num_hidden_layers=10**9), "its num_hidden_layers is 1000000000"),
    "fewer layers": (edited("config.json", num_hidden_layers=1), "do not fit its configuration"),
    "more layers": (edited("config.json", num_hidden_layers=3), "its weights lack encoder.layer.2"),
    "another width": (edited("config.json", hidden_size=48), "cannot be built from its files"),
    "a tensor missing": (without_a_tensor, "do not fit its configuration (blocks.1.mlp.fc2.bias)"),
    "a tensor more": (with_a_tensor_more, "do not fit its configuration (encoder.layer.2"),
}


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT as transformers saves it. Not to be changed."""
    folder = tmp_path_factory.mktemp("vit")
    save_transformers(folder, "ViT", 32, image_size=32, patch_size=16)
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_in_one_line(name: str, vit_folder: Path, tmp_path: Path) -> None:
    damage, expected = DAMAGE[name]
    shutil.copytree(vit_folder, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "model")
    assert expected in str(caught.value)
    assert str(caught.value).isprintable()


BAD_TIMM = {
    "an unknown architecture": ({"architecture": "vit_of_mine"}, "timm has no architecture 'vit_of_mine'"),
    "a path to load from": ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args has checkpoint_path"),
    "an endless width": ({"model_args": {"embed_dim": 10**12}}, "model_args has embed_dim"),
    "arguments that are none": ({"model_args": {"no_such_thing": 1}}, "cannot be built from its files"),
    "objects as arguments": ({"model_args": {"img_size": {"a": 1}}}, "model_args has img_size"),
    "other widths": ({"model_args": {**TINY, "embed_dim": 48}}, "cannot be built from its files"),
    "a list as arguments": ({"model_args": [1]}, "is no object"),
    "a mean of two": ({"pretrained_cfg": {"mean": [1, 2], "input_size": [3, 64, 64]}}, "cannot be built"),
}


@pytest.mark.parametrize("name", BAD_TIMM)
def test_timms_files_are_not_trusted(name: str, tmp_path: Path) -> None:
    changes, expected = BAD_TIMM[name]
    save_timm(tmp_path)
    edited("config.json", **changes)(tmp_path)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert expected in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("seed", seeds(30))
def test_damaged_files_are_read_alike_or_refused(seed: int, vit_folder: Path, tmp_path: Path) -> None:
    rng = random.Random(seed)
    folder = tmp_path / "model"
    shutil.copytree(vit_folder, folder)
    name = rng.choice(("config.json", PRE, "model.safetensors"))
    if name.endswith(".json") and rng.random() < 0.7:
        content = json.loads((folder / name).read_text())
        content[rng.choice(list(content))] = rng.choice([value for value in VALUES if value != "\udcff"])
        (folder / name).write_text(json.dumps(content))
    else:
        (folder / name).write_bytes(mutate_bytes((folder / name).read_bytes(), rng))
    try:
        encoder = load(folder)
    except InputError as error:
        message = str(error)
    else:
        assert encoder(picture(40, 50)).shape == (encoder.width,)
        return
    assert message.isprintable()


@pytest.mark.parametrize("name", ["timm:none_such", "timm:../x", "timm:", "hf-hub:", "hf-hub:../../x", "hf-hub:a/b/c"])
def test_names_of_no_model_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as caught:
        load_encoder(name, CPU, torch.float32)
    assert str(caught.value).isprintable()


def test_a_model_of_the_hub_comes_from_the_cache(vit_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """As the hub lays its cache out: what lies there serves without a connection."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40
    root = tmp_path / "models--owner--vit"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    shutil.copytree(vit_folder, root / "snapshots" / commit)
    found = load_encoder("hf-hub:owner/vit", CPU, torch.float32)
    image = picture(32, 32)
    np.testing.assert_array_equal(found(image), load(vit_folder)(image))
    assert found.description["name"] == "hf-hub:owner/vit"
