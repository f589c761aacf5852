"""The Stable Diffusion 1.x networks, written out, and the loading of published weights into them."""

from __future__ import annotations

from model.errors import InputError
from model.weights import StableDiffusion, load

__all__ = ["InputError", "StableDiffusion", "load"]
