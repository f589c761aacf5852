"""NVIDIA machine code as `nvdisasm -hex` prints it: instructions with what their control bits say, loops, paths.

Each instruction of 128 bits carries in its upper half what its scheduler needs: clocks to stall (bits 41 to 44), the
scoreboards that it sets when its result is written or its operands are read (46 to 48, 49 to 51; 7 is none), and those
that it waits for (52 to 57, one bit each).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LINE = re.compile(
    r"\s*/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P[T0-9])\s+)?([A-Z][A-Za-z0-9_.]*)\s*(.*?);\s*/\* 0x[0-9a-f]{16} \*/"
)
_UPPER_HALF = re.compile(r"\s*/\* 0x([0-9a-f]{16}) \*/")
_LABEL = re.compile(r"(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
PRODUCTS = ("HGMMA", "HMMA")


@dataclass(frozen=True)
class Instruction:
    """``name`` is the opcode up to its first full stop; ``target`` is where a branch goes, as an index."""

    opcode: str
    operands: str
    predicate: str
    stall: int
    sets_when_written: int
    sets_when_read: int
    waits_for: int
    label: str | None

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]


@dataclass(frozen=True)
class Code:
    """One kernel."""

    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]

    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of every loop: conditional branches backwards."""
        found = []
        for number, each in enumerate(self.instructions):
            if each.label is not None and each.predicate and self.labels[each.label] <= number:
                found.append((self.labels[each.label], number))
        return found

    def product_loops(self) -> list[tuple[int, int]]:
        """The loops that use tensor cores, in order."""
        return [
            (first, last)
            for first, last in self.loops()
            if any(each.name in PRODUCTS for each in self.instructions[first : last + 1])
        ]

    def path(self, trips: Mapping[int, int]) -> list[int]:
        """The instructions of one warp in the order in which it comes by them: loops run ``trips`` of their first
        instruction (once if it is not there), other branches are not taken."""
        ends = {last: first for first, last in self.loops()}
        path, left, number = [], dict[int, int](), 0
        while number < len(self.instructions):
            path.append(number)
            each = self.instructions[number]
            if number in ends:
                left[number] = left.get(number, trips.get(ends[number], 1)) - 1
                if left[number] > 0:
                    number = ends[number]
                    continue
                del left[number]
            if each.name == "EXIT" and not each.predicate:
                break
            number += 1
        return path


def read_code(text: str) -> Code:
    """Read what ``nvdisasm -hex`` prints of a cubin with one kernel. Raises ValueError for other text."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if named := _LABEL.match(line):
            labels[named[1]] = len(instructions)
        if not (found := _LINE.match(line)):
            continue
        upper = _UPPER_HALF.match(next(lines, ""))
        if upper is None:
            raise ValueError(f"no second half of an instruction after {line.strip()[:80]!r}")
        bits, target = int(upper[1], 16), _TARGET.search(found[3])
        instructions.append(
            Instruction(
                opcode=found[2],
                operands=found[3],
                predicate=found[1] or "",
                stall=bits >> 41 & 15,
                sets_when_written=bits >> 46 & 7,
                sets_when_read=bits >> 49 & 7,
                waits_for=bits >> 52 & 63,
                label=target[1] if target is not None and found[2].startswith("BRA") else None,
            )
        )
    if not instructions:
        raise ValueError("no instructions")
    return Code(tuple(instructions), labels)
