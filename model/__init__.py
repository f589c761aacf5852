"""The Stable Diffusion 1.x networks, written out, and the loading of published weights into them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from model.errors import CheckpointError

if TYPE_CHECKING:
    from model.checkpoint.load import load
    from model.stable_diffusion import StableDiffusion

__all__ = ["CheckpointError", "StableDiffusion", "load"]

_PLACES = {"StableDiffusion": "stable_diffusion", "load": "checkpoint.load"}
_MODULES = frozenset(
    {
        *("checkpoint", "clip", "config", "cpu_layers", "files", "free_u", "host_memory", "layers", "stable_diffusion"),
        *("tokenizer", "transformer", "unet", "unet_blocks", "vae", "vae_rows"),
    }
)


def __getattr__(name: str) -> Any:
    # Loaded when asked for: who wants the error alone, such as the command line, need not wait for PyTorch.
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
