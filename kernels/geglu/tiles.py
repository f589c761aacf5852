"""Tile sizes of the GEGLU kernel: chosen by arithmetic, no timing has chosen them."""

from __future__ import annotations

# Rows and columns of one program, and its warps. 256 divides every width of SD-1.5.
BLOCK_M, BLOCK_N, NUM_WARPS = 8, 256, 4
