"""Tile sizes of the attention kernel as data, by head width and GPU architecture.

Chosen so that ahead-of-time builds use no local memory (no register spills) and stay within each chip's shared
memory; the tests check both for every row of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.head_widths import split_width

# Largest shared memory of one block in bytes, by compute capability.
SHARED_MEMORY = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}

MOST_REGISTERS = 255
"""Of one thread, on all of them."""

SKIPPING = False
"""Whether a launch leaves out tiles of keys that contribute nothing. By estimate that pays from 13 % such tiles on, and
none was ever seen on the demonstration's latents; real SD-1.5 maps may say otherwise. The result is the same bits."""


@dataclass(frozen=True)
class Tiles:
    """One program's share of attention, and how it is built."""

    block_m: int  # queries held by one program
    block_n: int  # keys per step
    num_warps: int
    num_stages: int  # steps whose loads are in flight
    maxnreg: int | None = None  # most that one thread may use, so that several programs fit a multiprocessor
    first_n: int = 0  # keys per step of a first pass that finds no output, a multiple of block_n; 0 is block_n

    def registers(self, *, contrast: bool, even: bool) -> int | None:
        """Most that one thread may use: as listed in the kernel that tiles were chosen by, in others all there are.

        Where none is named, the assembler aims at as few as let more programs fit, and may spill for them.
        """
        return self.maxnreg if contrast and even else MOST_REGISTERS

    def first_keys(self, *, contrast: bool) -> int:
        """Keys per step of the first pass."""
        return self.first_n if self.first_n and contrast else self.block_n


# For half types: head widths as held, up to which a row serves; architectures; tiles where there are queries enough to
# give every multiprocessor a block of the larger size, and tiles otherwise; tiles where classes are kept apart or tiles
# skipped, which takes registers. Larger blocks read keys and values from the second-level cache half as often.
_HALF: tuple[tuple[int, tuple[int, ...], Tiles, Tiles, Tiles], ...] = (
    (64, (90,), Tiles(128, 64, 8, 3, 128, 128), Tiles(64, 64, 4, 3, None, 128), Tiles(64, 64, 4, 3)),
    (64, (100,), Tiles(128, 64, 8, 3, 128), Tiles(64, 64, 4, 3, 255), Tiles(64, 64, 4, 3)),
    (64, (80,), Tiles(64, 64, 4, 3, 168), Tiles(64, 64, 4, 3, 168), Tiles(64, 64, 4, 3, 168)),
    (64, (86, 89), Tiles(64, 64, 4, 3, 168), Tiles(64, 64, 4, 3, 168), Tiles(64, 32, 4, 2, 255)),
    (64, (120,), Tiles(128, 64, 8, 3), Tiles(64, 64, 4, 2), Tiles(32, 64, 4, 2, 255)),
    (128, (90,), Tiles(128, 64, 8, 3), Tiles(64, 128, 4, 3), Tiles(64, 64, 4, 3)),
    (128, (100,), Tiles(64, 64, 8, 3), Tiles(64, 64, 8, 3), Tiles(64, 64, 8, 3)),
    (128, (80,), Tiles(64, 64, 8, 3), Tiles(64, 64, 8, 3), Tiles(64, 64, 8, 3)),
    (128, (86, 89), Tiles(64, 32, 4, 3), Tiles(64, 32, 4, 3), Tiles(64, 32, 4, 2)),
    (128, (120,), Tiles(64, 64, 8, 2), Tiles(64, 64, 8, 2), Tiles(64, 32, 8, 2)),
    (160, (90,), Tiles(64, 64, 4, 3), Tiles(64, 64, 4, 3), Tiles(64, 32, 8, 3)),
    (160, (100,), Tiles(64, 32, 4, 3), Tiles(64, 32, 4, 3), Tiles(64, 32, 8, 3)),
    (160, (80, 86, 89), Tiles(64, 32, 8, 3), Tiles(64, 32, 8, 3), Tiles(64, 16, 8, 2)),
    (160, (120,), Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 2), Tiles(16, 16, 4, 2, 255)),
)

# float32 is multiplied without tensor cores, so its tiles are small.
_FLOAT32 = Tiles(32, 32, 4, 2)


def choose_tiles(
    width: int,
    itemsize: int,
    architecture: int,
    multiprocessors: int,
    image_heads: int,
    queries: int,
    *,
    burdened: bool = False,
) -> Tiles:
    """Tiles for one launch of attention.

    Args:
        width: D, at most 160.
        itemsize: bytes of an element, 2 or 4.
        architecture: compute capability times 10; one that is not listed gets the tiles of the next one below.
        multiprocessors: of the device.
        image_heads: B·H.
        queries: Nq.
        burdened: whether classes are kept apart or tiles skipped.
    """
    if itemsize == 4:
        return _FLOAT32
    listed = max(a for a in SHARED_MEMORY if a <= architecture)
    held = sum(split_width(width))
    large, small, careful = next(row[2:] for row in _HALF if held <= row[0] and listed in row[1])
    if burdened:
        return careful
    return large if image_heads * -(-queries // large.block_m) >= multiprocessors else small
