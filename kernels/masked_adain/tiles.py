"""Tile sizes of the kernel for latents."""

from __future__ import annotations

BLOCK_P = 1024  # positions of a channel, at once
CLASSES_PER_LAUNCH = 31  # the classes wanted are the bits of an int32
