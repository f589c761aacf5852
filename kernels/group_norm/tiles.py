"""Tile sizes of group normalisation as data, and the choice among them by shape.

Chosen by arithmetic (whole lines of memory, 32 bytes a thread in 64 registers, so that a multiprocessor holds 1024
threads, and programs enough for every multiprocessor) and so that ahead-of-time builds spill nothing; no timing has
chosen them.
"""

from __future__ import annotations

from dataclasses import dataclass

# Within a tile group normalisation counts elements in 32 bits, which these keep it below.
MOST_POSITIONS = 2**23  # of an image, and between two channels
MOST_STRIDE = 2**16  # between two positions

_TILE_BYTES = 16384  # of a tile, elements past an edge included
_KEPT_BYTES = 32768  # of a tile that stays in registers from its statistics to the output
_BYTES_PER_WARP = 1024
_MOST_WARPS = 16
_PROGRAMS = 4  # wanted for each multiprocessor
_MOST_CHUNKS = 128  # merged by every program of the second launch
_MOST_COLUMNS = 128
_TILES_AT_ONCE = 4  # up to which one program takes a group alone, in one launch


@dataclass(frozen=True)
class GroupTiles:
    """One program's share of group normalisation. A chunk that holds every position makes one launch of two."""

    groups: int  # of one program; more than 1 only where ``block_c`` holds them all
    block_c: int  # channels of a tile
    block_p: int  # positions of a tile
    chunk: int  # positions of one program, a multiple of ``block_p``
    num_warps: int
    maxnreg: int | None = None  # most that one thread may use


def power_of_two(least: int) -> int:
    """The smallest power of two that is no less than ``least``."""
    return 1 << (least - 1).bit_length()


def _adjoining_groups(width: int, groups: int, itemsize: int, most_columns: int) -> tuple[int, int]:
    """Groups and columns of a channels-last tile: 16-byte loads where groups allow them, few columns left idle."""
    vector = 16 // itemsize
    choices = []
    for columns in (64, 128):
        if columns > most_columns or width > columns:
            continue
        taken = min(columns // width, groups)
        while taken > 1 and taken * width % vector:
            taken -= 1
        held = -(-groups // taken) * columns
        choices.append((taken * width % vector > 0, held, columns, taken))
    if not choices:
        return 1, min(power_of_two(width), _MOST_COLUMNS)
    _, _, columns, taken = min(choices)
    return taken, columns


def choose_group_tiles(
    batch: int, groups: int, width: int, positions: int, itemsize: int, *, channels_last: bool, multiprocessors: int
) -> GroupTiles:
    """Tiles for group normalisation.

    Args:
        batch: B.
        groups: of one image.
        width: channels of a group.
        positions: H·W.
        itemsize: bytes of an element.
        channels_last: whether channels adjoin in memory, rather than positions.
        multiprocessors: of the device.
    """
    every = power_of_two(positions)
    kept = _KEPT_BYTES // itemsize
    if channels_last:
        taken, columns = _adjoining_groups(width, groups, itemsize, 64 if every <= kept // 64 else 128)
    else:
        taken, columns = 1, min(power_of_two(width), _MOST_COLUMNS)
    if columns >= taken * width and every * columns <= kept:
        return GroupTiles(taken, columns, every, every, _warps(every * columns * itemsize), 128)
    tile = min(every, _TILE_BYTES // itemsize // columns)
    steps = -(-positions // tile)
    chunks = 1
    if steps * -(-width // columns) > _TILES_AT_ONCE:
        programs = batch * -(-groups // taken)
        chunks = min(steps, _MOST_CHUNKS, -(-_PROGRAMS * multiprocessors // programs))
    return GroupTiles(taken, columns, tile, -(-steps // chunks) * tile, _warps(tile * columns * itemsize), 64)


def _warps(size: int) -> int:
    """For a tile of ``size`` bytes."""
    return min(_MOST_WARPS, max(4, size // _BYTES_PER_WARP))
