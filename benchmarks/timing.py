"""Several ways to do the same thing, in turns in one process: what every comparison of time and memory is made of."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.record import Row, quantiles
from model.host_memory import trim_heap

Outputs = tuple[Tensor, ...]
Sides = dict[str, Callable[[], Outputs]]

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

HEAD_START = 2_000_000  # clock cycles that a GPU waits for the host's launches


@dataclass(frozen=True)
class Peak:
    """Bytes held before, and at most. On the CPU both are the process's resident size, with its code and libraries."""

    before: int
    peak: int

    @property
    def extra(self) -> int:
        """What was needed beyond what was held before."""
        return self.peak - self.before


class Watch:
    """Watches memory from its making on, on ``device``. Only one at a time: the counters are the process's.

    What no longer has a user is given back first. On the CPU this needs Linux's /proc and the right to reset its
    high-water mark; without them `read` gives None.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif _reset_high_water():
            self._before = _resident("VmRSS")

    def read(self) -> Peak | None:
        """The peak since the making."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return Peak(self._before, torch.cuda.max_memory_allocated(self._device))
        return Peak(self._before, _resident("VmHWM"))


class Times(NamedTuple):
    """Seconds of one call: on the device, until it returned, and of processor time of all this process's threads."""

    device: float
    host: float
    processor: float


@dataclass(frozen=True)
class Outcome:
    """One side after all turns.

    ``times`` has an entry for each turn. ``peak`` is that of the turn that held most; None where memory is not counted.
    ``outputs`` are those of the last turn that was looked at, on the CPU, and ``differences`` the largest absolute ones
    to the first side's, for each output.
    """

    times: list[Times]
    peak: Peak | None
    outputs: Outputs
    differences: tuple[float, ...]


def take_turns(
    sides: Mapping[str, Callable[[], Outputs]],
    device: torch.device,
    rounds: int,
    *,
    warm_ups: int = 1,
    brief: bool = False,
) -> dict[str, Outcome]:
    """Call every side ``warm_ups`` times, then all of them in turns ``rounds`` times.

    Memory and outputs of ``brief`` calls are looked at in the first turn alone: looking takes longer than they do.

    Raises ValueError for fewer than one round, or if sides differ in the shapes of their outputs.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds: at least one is needed")
    for _ in range(warm_ups):
        for call in sides.values():
            call()
    times: dict[str, list[Times]] = {name: [] for name in sides}
    peaks: dict[str, list[Peak]] = {name: [] for name in sides}
    outputs: dict[str, Outputs] = {}
    for turn in range(rounds):
        for name, call in sides.items():
            if brief and turn > 0:
                times[name].append(timed(call, device)[0])
                continue
            watch = Watch(device)
            taken, result = timed(call, device)
            times[name].append(taken)
            peak = watch.read()
            if peak is not None:
                peaks[name].append(peak)
            outputs[name] = tuple(tensor.detach().cpu() for tensor in result)
            del result
    first = next(iter(outputs.values()))
    return {
        name: Outcome(
            times[name],
            max(peaks[name], key=lambda peak: peak.peak, default=None),
            outputs[name],
            tuple(_difference(name, a, b) for a, b in zip(first, outputs[name], strict=True)),
        )
        for name in sides
    }


def timed(call: Callable[[], Outputs], device: torch.device) -> tuple[Times, Outputs]:
    """How long one call takes, and what it returns."""
    cuda = device.type == "cuda"
    if cuda:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        # The device waits while the host queues a short call, so that no gap between launches is counted.
        torch.cuda._sleep(HEAD_START)
        start.record()
    begin, processor = time.perf_counter(), time.process_time()
    result = call()
    on_device = host = time.perf_counter() - begin
    if cuda:
        end.record()
        end.synchronize()
        on_device = start.elapsed_time(end) / 1e3
    return Times(on_device, host, time.process_time() - processor), result


class Phases:
    """Seconds by phase within one call. Each mark waits for the device, so there should be few."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._images: list[float] = []
        self._device = device
        self._last = self._now()

    def finished(self, phase: str) -> None:
        """What went by since the last mark belongs to ``phase``."""
        now = self._now()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def image(self) -> None:
        """An image is done."""
        self._images.append(time.process_time() if self._device.type == "cpu" else self._now())

    @property
    def marginal(self) -> float | None:
        """Seconds for each image after the first, if there are any; on a CPU of processor time."""
        count = len(self._images) - 1
        return (self._images[-1] - self._images[0]) / count if count > 0 else None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def as_rows(
    what: str,
    shape: dict[str, int],
    dtype: torch.dtype,
    outcomes: Mapping[str, Outcome],
    *,
    against: str,
    weight_bytes: int | None = None,
) -> list[Row]:
    """A row for each side; its error is that of the first output ``against`` the first side's."""
    rows = []
    for name, outcome in outcomes.items():
        on_device, host, processor = (quantiles(seconds) for seconds in zip(*outcome.times, strict=True))
        row = Row(
            what,
            name,
            shape,
            str(dtype).removeprefix("torch."),
            *on_device,
            host_p50=host[1],
            processor_p50=processor[1],
            rounds=len(outcome.times),
            peak_bytes=None if outcome.peak is None else outcome.peak.extra,
            held_bytes=None if outcome.peak is None else outcome.peak.before,
            weight_bytes=weight_bytes,
            max_error=outcome.differences[0],
            against=against,
        )
        rows.append(row)
    return rows


def _difference(name: str, expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        raise ValueError(f"{name}: output of shape {list(actual.shape)} instead of {list(expected.shape)}")
    return float((actual.double() - expected.double()).abs().max())


def _reset_high_water() -> bool:
    """Give freed memory back to the system, and set the mark to what is left."""
    trim_heap()
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{STATUS} has no {field}")
    return 1024 * int(found[1])
