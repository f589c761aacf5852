"""The network: a U-Net with an encoder of segmentation-models-pytorch or timm, and its weights as files.

Notation: B images, H, W height and width in pixels, C classes, K channels out: 1 for two classes, else C.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from evaluation.segmentation.settings import weights_file
from imaging.errors import InputError, brief
from imaging.rawfile import is_file, shown

MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet, in which pretrained encoders expect images."""

TIMM = "tu-"


def encoder_names() -> list[str]:
    """All names that `build` may know: segmentation-models-pytorch's, and timm's with ``tu-`` before them."""
    return [*sorted(smp.encoders.get_encoder_names()), *(f"{TIMM}{name}" for name in timm.list_models())]


def build(encoder: str, weights: str | None, num_classes: int, seed: int) -> torch.nn.Module:
    """A U-Net, float32 on the CPU, [B, 3, H, W] -> [B, K, H, W], H and W multiples of 32; begun by ``seed``.

    Raises:
        InputError: there is no such encoder, it cannot serve a U-Net, or its weights cannot be had.
    """
    file = weights_file(weights)
    from_hub = weights if file is None else None
    channels = 1 if num_classes == 2 else num_classes
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            named: str | bool | None = True if from_hub and encoder.startswith(TIMM) else from_hub
            network: torch.nn.Module = smp.Unet(encoder, encoder_weights=named, in_channels=3, classes=channels)
        except Exception as error:
            raise _cannot_build(encoder, from_hub, error) from error
    if file is not None:
        _fill_encoder(network, file)
    return network


def in_channels_last(network: torch.nn.Module) -> torch.nn.Module:
    """The same network with its weights in the order of memory that convolutions are quickest in."""
    ordered: torch.nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ordered


def prepared(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, H, W] as the network takes it, float32."""
    mean, sd = (torch.tensor(each, device=images.device)[:, None, None] for each in (MEAN, SD))
    return ((images.float() / 255 - mean) / sd).contiguous(memory_format=torch.channels_last)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """[B, K, H, W] -> [B, C, H, W], float32, together 1 in each pixel."""
    if logits.shape[1] > 1:
        return logits.float().softmax(dim=1)
    foreground = logits.float().sigmoid()
    return torch.cat([1 - foreground, foreground], dim=1)


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a network's state as safetensors. Raises OSError."""
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)
    except SafetensorError as error:  # of a full disk, say
        raise OSError(None, brief(str(error), 100)) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file. Raises InputError for one that cannot be read or holds what is not finite."""
    if not is_file(path):
        raise InputError(f"{shown(path)}: no such file; check the path")
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: not a safetensors file that can be read ({brief(str(error))})") from error
    for name, value in found.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{shown(path)}: {brief(name)} holds NaN or infinities; train again")
    return found


def fill(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Fill every parameter and buffer of ``network`` from ``path``'s ``weights``, each once.

    Raises:
        InputError: one is missing, is of another shape, or there is one too many.
    """
    wanted = network.state_dict()
    for name in [*wanted, *weights]:
        if name not in weights or name not in wanted:
            problem = "lacks" if name in wanted else "has, beyond the network's,"
            raise InputError(f"{shown(path)}: {problem} {brief(name)}; it is of another encoder")
        if weights[name].shape != wanted[name].shape or weights[name].dtype != wanted[name].dtype:
            raise InputError(f"{shown(path)}: {brief(name)} is of another shape or type; it is of another encoder")
    network.load_state_dict(dict(weights))


def _cannot_build(encoder: str, from_hub: str | None, error: Exception) -> InputError:
    known = encoder in smp.encoders.get_encoder_names() or encoder.removeprefix(TIMM) in timm.list_models()
    detail = brief(" ".join(str(error).split()), 120)
    if known and from_hub is not None:
        return InputError(
            f"`encoder_weights` {brief(from_hub)}: cannot be had for {encoder} ({detail}); without the hub give a "
            ".safetensors file, or leave it out"
        )
    if known:
        return InputError(f"`encoder` {encoder}: cannot serve a U-Net ({detail}); take another, such as resnet18")
    return InputError(
        f"`encoder` {brief(encoder)}: there is none of this name; `encoder` list prints all, such as resnet18, "
        "tu-resnet10t, tu-tf_efficientnetv2_s"
    )


def _fill_encoder(network: torch.nn.Module, path: Path) -> None:
    """Fill the encoder from a file with its own names, timm's, or a whole U-Net's; classifiers are passed over."""
    found = read_weights(path)
    encoder = network.get_submodule("encoder")
    wanted = encoder.state_dict()
    prefixes = ("", "model.", "encoder.")
    given = {}
    for name in wanted:
        names = [name, *(name.removeprefix(each) for each in prefixes), *(each + name for each in prefixes)]
        match = next((each for each in names if each in found), None)
        if match is None:
            if name.endswith("num_batches_tracked"):
                given[name] = wanted[name]
                continue
            raise InputError(f"{shown(path)}: has no {brief(name)}; give weights of this very encoder")
        given[name] = found[match].to(wanted[name].dtype)
        if found[match].shape != wanted[name].shape:
            raise InputError(f"{shown(path)}: {brief(match)} is of another shape; give weights of this very encoder")
    encoder.load_state_dict(given)
