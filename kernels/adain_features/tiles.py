"""Tile sizes of the kernel for attention features."""

from __future__ import annotations

BLOCK_M = 64  # queries of one program
