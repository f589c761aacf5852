"""One of a multiprocessor's four schedulers, playing the warps of a kernel by the control bits of its machine code.

One instruction a clock, pipes with their intervals, scoreboards, barriers, copies to shared memory in flight behind a
share of the second-level cache's bandwidth, products of tensor cores. What nobody has measured here (latencies,
bandwidth) is a parameter, in three sets.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from statistics import mean

from benchmarks.machine_code import Code, Instruction

CLOCKS_PER_MICROSECOND = 1755


@dataclass(frozen=True)
class Chip:
    """What is assumed, in clocks; bandwidth in bytes a clock of one multiprocessor."""

    memory_latency: int
    bandwidth: float
    fence: int  # of memory, among the threads of a block


CHIPS = {"optimistic": Chip(300, 40.0, 10), "middle": Chip(500, 28.0, 25), "pessimistic": Chip(800, 20.0, 100)}


@dataclass(frozen=True)
class Pipe:
    """Clocks from one instruction to the next, to a result, and how far ahead instructions may wait in its queue."""

    interval: int
    latency: int
    queue: int = 0


PIPES = {
    "multiply-add": Pipe(1, 5),
    "integer multiply-add": Pipe(2, 6),
    "arithmetic": Pipe(2, 6),
    "exponential": Pipe(8, 30, 8),
    "memory": Pipe(4, 32, 16),
    "uniform": Pipe(2, 12),
}
_NAMES = {
    "multiply-add": "FFMA FADD FMUL FFMA32I FADD32I HFMA2 HADD2 HMUL2",
    "integer multiply-add": "IMAD",
    "exponential": "MUFU F2I I2F F2F FRND I2FP",
    "memory": "SHFL LDS STS LDG STG LDGSTS LDSM STSM ATOMG RED MATCH REDUX SYNCS UTMALDG",
    "arithmetic": "FMNMX FSEL FSETP ISETP LOP3 SHF SEL IADD3 PRMT VIADD MOV LEA F2FP VIMNMX IABS SGXT PLOP3 FCHK LOP "
    "P2R R2P VOTE POPC FLO BREV IMNMX CS2R NOP",
}
_PIPE_OF = {name: pipe for pipe, names in _NAMES.items() for name in names.split()}
_BARRIER, _WAKE_UP, _PRODUCT_LATENCY, _CONTROL_LATENCY = 25, 8, 24, 20
_FENCE_OF_PRODUCTS = 8


def _pipe(each: Instruction) -> str | None:
    if each.predicate == "@!PT":
        return "arithmetic"
    if each.name.startswith("U") or each.name in ("R2UR", "S2UR"):
        return "uniform"
    return _PIPE_OF.get(each.name)


def _product_clocks(each: Instruction) -> float:
    """Clocks that a scheduler's tensor core is busy: a multiprocessor makes 2048 half-precision products a clock."""
    sides = re.match(r"HGMMA\.64x(\d+)x", each.opcode)
    return 8.0 if sides is None else int(sides[1]) / 2


@dataclass
class _Warp:
    block: int
    ready: float
    at: int = 0
    scoreboards: list[float] = field(default_factory=lambda: [0.0] * 6)
    copying: float = 0.0  # when the copies since the last commit are done
    committed: list[float] = field(default_factory=list)  # when each group of copies is done
    products: float = 0.0  # when the last committed product is done
    last_product: float = 0.0
    waiting: bool = False  # at a barrier


class Scheduler:
    """One scheduler with its warps, going through one path."""

    def __init__(self, code: Code, trips: dict[int, int], chip: Chip, blocks: int, warps: int, offset: int) -> None:
        self._code, self._chip, self._each_block = code.instructions, chip, warps
        self._path = code.path(trips)
        self._pipes = [_pipe(each) for each in self._code]
        self._hot = {n for first, last in code.product_loops() for n in range(first, last + 1)}
        self._warps = [_Warp(b, float(offset * b + 3 * w)) for b in range(blocks) for w in range(warps)]
        self._free = dict.fromkeys((*PIPES, "products"), 0.0)
        self._cache = 0.0  # when the second-level cache has sent what was asked for

    def clocks(self, *, rotate: bool) -> float:
        """Clocks until the last warp is done, with the warps asked in turns or always the first one first."""
        time, turn, count = 0.0, 0, len(self._warps)
        left = count
        while left:
            order = [(turn + n) % count for n in range(count)] if rotate else range(count)
            soonest = math.inf
            for number in order:
                warp = self._warps[number]
                if warp.waiting or warp.at >= len(self._path):
                    continue
                earliest = self._earliest(warp)
                if earliest <= time:
                    break
                soonest = min(soonest, earliest)
            else:
                if soonest == math.inf:
                    raise RuntimeError("all warps wait for each other: the path leaves out a barrier of some")
                time = float(math.ceil(max(soonest, time + 1)))
                continue
            turn = number + 1
            self._issue(warp, time)
            left -= warp.at >= len(self._path)
            time += 1
        return time

    def _earliest(self, warp: _Warp) -> float:
        number = self._path[warp.at]
        each, pipe, earliest = self._code[number], self._pipes[number], warp.ready
        for index in range(6):
            if each.waits_for >> index & 1:
                earliest = max(earliest, warp.scoreboards[index])
        if pipe is not None:
            return max(earliest, self._free[pipe] - PIPES[pipe].queue)
        if each.opcode.startswith("WARPGROUP.DEPBAR"):
            return max(earliest, warp.products)
        if each.name == "DEPBAR":
            counted = re.search(r"0x([0-9a-f]+)", each.operands)
            open_groups = int(counted[1], 16) if counted is not None else 0
            if len(warp.committed) > open_groups:
                return max(earliest, warp.committed[-open_groups - 1] + _WAKE_UP)
        return earliest

    def _issue(self, warp: _Warp, time: float) -> None:
        number = self._path[warp.at]
        each, pipe = self._code[number], self._pipes[number]
        done, again = time + 1, time + max(1, each.stall)
        if pipe is not None:
            done = self._through_pipe(warp, number, pipe, time)
        elif each.name in ("HGMMA", "HMMA"):
            begun, busy = max(time, self._free["products"]), _product_clocks(each)
            self._free["products"] = begun + busy
            warp.last_product, done = begun + busy + _PRODUCT_LATENCY, begun + busy + 4
            if "gsb0" in each.operands:
                warp.products = warp.last_product
            if each.name == "HMMA":
                again += begun - time
        elif each.name == "LDGDEPBAR":
            warp.committed.append(max(warp.copying, warp.committed[-1] if warp.committed else 0.0))
            warp.copying = 0.0
        elif each.name == "MEMBAR":
            again = time + self._chip.fence
        elif each.name == "FENCE":
            again = time + _FENCE_OF_PRODUCTS
        elif each.name in ("LDC", "S2R"):
            done = time + _CONTROL_LATENCY * 2
        warp.ready = again
        if each.sets_when_written < 6:
            index = each.sets_when_written
            warp.scoreboards[index] = max(warp.scoreboards[index], done)
        if each.sets_when_read < 6:
            index = each.sets_when_read
            read = done if each.name in ("HGMMA", "HMMA") else time + 12
            read = min(done, time + 20) if pipe == "memory" else read
            warp.scoreboards[index] = max(warp.scoreboards[index], read)
        warp.at += 1
        if each.name == "BAR":
            self._meet(warp, time)

    def _through_pipe(self, warp: _Warp, number: int, pipe: str, time: float) -> float:
        """Issue into a pipe; gives when the result is there."""
        each, interval = self._code[number], PIPES[pipe].interval
        if pipe == "memory":
            interval = 16 if ".128" in each.opcode else 8 if ".64" in each.opcode else interval
        begun = max(time, self._free[pipe])
        self._free[pipe] = begun + interval
        if each.name == "LDGSTS":
            size = 32 * (16 if ".128" in each.opcode else 8)
            # The other three schedulers ask for as much at the same time.
            self._cache = max(self._cache, time) + 4 * size / self._chip.bandwidth
            warp.copying = max(warp.copying, self._cache + self._chip.memory_latency)
            return begun + interval + 10
        if each.name == "STG":
            return begun + interval + 10
        if each.name in ("LDG", "ATOMG"):
            # What a product loop loads itself lies in the first-level cache.
            return begun + interval + (80 if number in self._hot else self._chip.memory_latency)
        queued = PIPES[pipe].queue > 0
        return (begun + interval if queued else time) + PIPES[pipe].latency - (interval if queued else 0)

    def _meet(self, warp: _Warp, time: float) -> None:
        warp.waiting = True
        mates = [other for other in self._warps if other.block == warp.block]
        if all(other.waiting or other.at >= len(self._path) for other in mates):
            for other in mates:
                other.waiting, other.ready = False, max(other.ready, time + _BARRIER)


def microseconds(code: Code, trips: dict[int, int], blocks: int, warps: int) -> dict[str, float]:
    """Time of ``blocks`` blocks together on a multiprocessor, ``warps`` of each on a scheduler, for each chip.

    The mean over offsets between the blocks and both orders of asking the warps.
    """
    ways = list(itertools.product((100, 300, 700), (False, True)))
    return {
        name: mean(Scheduler(code, trips, chip, blocks, warps, offset).clocks(rotate=rotate) for offset, rotate in ways)
        / CLOCKS_PER_MICROSECOND
        for name, chip in CHIPS.items()
    }
