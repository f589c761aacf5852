"""Encoders by timm: any of its models by name, of the Hugging Face hub, or of a local folder.

Size, crop and normalisation of the images are those of the model's own configuration.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from evaluation.embedding.transformers_vit import MODEL_TYPES, build_vit
from evaluation.embedding.vision_folder import CONFIG, HUB, TIMM, VisionFolder, fetch, open_folder
from evaluation.extra import missing_extra
from imaging.errors import InputError, brief
from imaging.provenance import file_sha256
from imaging.rawfile import shown

LARGEST = 2**20
"""Of numbers in a model's configuration; larger ones are damage, and would fill the memory."""
# What timm's factory takes besides a model's own arguments; a file must not say where to load from.
_FACTORY = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"}
    | {"exportable", "no_jit", "pretrained_strict", "pretrained_filter_fn", "features_only", "pretrained_model_args"}
)

_PREPROCESSING = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode", "fixed_input_size")
_STRUCTURE = ("num_classes", "classifier", "first_conv", "pool_size")


@dataclass(frozen=True)
class VisionEncoder:
    """One loaded model with its preprocessing. ``description`` says all that decides its numbers."""

    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    description: Mapping[str, Any]
    width: int
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB [H, W, 3] -> float32 [width]."""
        return self._pooled(self.transform(Image.fromarray(image))).float().cpu().numpy()

    def _pooled(self, pixels: Tensor) -> Tensor:
        """[3, h, w] -> [width]. A model without pooling of its own gives its first token and the mean of the others."""
        found = self.model(pixels[None].to(self.device, self.dtype))
        if found.ndim == 3:  # [1, N, D]
            prefix = int(getattr(self.model, "num_prefix_tokens", 1))
            parts = [found[:, 0], found[:, prefix:].mean(dim=1)] if prefix else [found.mean(dim=1)]
            found = torch.cat(parts, dim=1)
        if found.ndim != 2 or len(found) != 1:
            raise ValueError(f"gives {list(found.shape)}, not a vector for an image")
        return found[0]


def load_encoder(name: str, device: torch.device, dtype: torch.dtype) -> VisionEncoder:
    """The encoder ``timm:NAME``, ``hf-hub:OWNER/NAME`` or of a local folder.

    Raises:
        InputError: timm is not installed, there is no such model, its files are damaged, or timm cannot build it.
    """
    timm = _timm()
    folder = open_folder(name, _place(timm, name))
    with _refusing(folder):
        if folder.config.get("model_type") in MODEL_TYPES:
            model, data = build_vit(folder)
        elif "architecture" in folder.config:
            model, data = _build(timm, folder)
        else:
            kinds = ", ".join(MODEL_TYPES)
            found = brief(repr(folder.config.get("model_type")))
            raise InputError(
                f"{shown(name)}: its {CONFIG} names no timm `architecture`, and its model_type is {found}, not one of "
                f"{kinds}; give the model in timm's form"
            )
        model = model.to(device, dtype).eval().requires_grad_(False)
        transform = timm.data.create_transform(**data, is_training=False)
        encoder = VisionEncoder(model, transform, {}, 0, device, dtype)
        width = len(encoder(np.full((64, 64, 3), 128, dtype=np.uint8)))
    description = {
        "kind": "vision model",
        "name": _shown_name(name),
        "weights_sha256": file_sha256(folder.weights),
        "config_sha256": file_sha256(folder.path / CONFIG),
        "preprocessing": {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()},
        "dtype": str(dtype).removeprefix("torch."),
    }
    return VisionEncoder(model, transform, description, width, device, dtype)


def _shown_name(name: str) -> str:
    return name if name.startswith((TIMM, HUB)) else Path(name).resolve().name


def _timm() -> ModuleType:
    try:
        importlib.import_module("timm.data")
        return importlib.import_module("timm")
    except (ImportError, OSError, RuntimeError) as error:
        raise missing_extra(error) from error


def _place(timm: ModuleType, name: str) -> Path:
    if name.startswith(HUB):
        return fetch(name, name.removeprefix(HUB))
    if not name.startswith(TIMM):
        path = Path(name).expanduser()
        try:
            there = path.is_dir()
        except (OSError, ValueError):
            there = False
        if not there:
            raise InputError(
                f"`encoder` {shown(name)}: no such folder; give diffusion, {TIMM}NAME, {HUB}OWNER/NAME or a folder"
            )
        return path
    wanted = name.removeprefix(TIMM)
    try:
        known = re.fullmatch(r"[A-Za-z0-9_.]{1,100}", wanted) and timm.is_model(wanted.split(".")[0])
        config = timm.get_pretrained_cfg(wanted, allow_unregistered=False) if known else None
    except RuntimeError:  # no such weights of the architecture
        config = None
    if config is None or not config.hf_hub_id:
        what = "timm has no such model with weights"
        raise InputError(f"`encoder` {shown(name)}: {what}; see timm.list_pretrained(), or give {HUB}OWNER/NAME")
    return fetch(name, str(config.hf_hub_id))


def _build(timm: ModuleType, folder: VisionFolder) -> tuple[nn.Module, dict[str, Any]]:
    """A model in timm's form: architecture, arguments, and the preprocessing that it was trained with."""
    config = folder.config
    architecture, arguments = config["architecture"], config.get("model_args", {})
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(f"{shown(folder.name)}: timm has no architecture {brief(repr(architecture))}; update timm")
    # Older files have all in one.
    pretrained = config.get("pretrained_cfg", {key: config[key] for key in config if key in _PREPROCESSING})
    if not isinstance(arguments, dict) or not isinstance(pretrained, dict):
        raise InputError(f"{shown(folder.name)}: model_args or pretrained_cfg is no object; download the model again")
    _check_arguments(folder, arguments)
    overlay = {key: pretrained[key] for key in (*_PREPROCESSING, *_STRUCTURE) if key in pretrained}
    if "num_classes" in config:
        overlay["num_classes"] = config["num_classes"]
    model = timm.create_model(
        architecture,
        pretrained=True,
        pretrained_cfg_overlay=overlay | {"file": str(folder.weights), "custom_load": False},
        **{**_layers(folder), **arguments, "num_classes": 0},
    )
    return model, timm.data.resolve_model_data_config(model)


def _layers(folder: VisionFolder) -> dict[str, Any]:
    """What a configuration cannot say: gated feed-forward layers, as in Virchow and UNI 2, told by their shapes."""
    with safe_open(folder.weights, framework="pt") as file:
        first, second = (f"blocks.0.mlp.{name}.weight" for name in ("fc1", "fc2"))
        if not {first, second} <= set(file.keys()):
            return {}
        wide, narrow = (file.get_slice(name).get_shape() for name in (first, second))
    if wide[0] != 2 * narrow[1]:
        return {}
    return {"mlp_layer": importlib.import_module("timm.layers").SwiGLUPacked, "act_layer": nn.SiLU}


def _check_arguments(folder: VisionFolder, arguments: Mapping[str, Any]) -> None:
    for key, value in arguments.items():
        if key in _FACTORY:
            raise InputError(f"{shown(folder.name)}: model_args has {brief(key)}, which is no model's own; remove it")
        for each in value if isinstance(value, list) else [value]:
            number = isinstance(each, int | float) and not isinstance(each, bool)
            if not (number or each is None or isinstance(each, bool | str)) or (number and not abs(each) <= LARGEST):
                raise InputError(f"{shown(folder.name)}: model_args has {brief(key)} {brief(repr(value))}; mend it")


@contextmanager
def _refusing(folder: VisionFolder) -> Iterator[None]:
    """Within, whatever timm and PyTorch make of a damaged model is one line about it."""
    try:
        yield
    except (InputError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # they raise nearly every kind
        detail = brief(" ".join(str(error).split()) or type(error).__name__, 200)
        raise InputError(
            f"{shown(folder.name)}: cannot be built from its files ({detail}); check them, or download them again"
        ) from error
