"""Several ways to do the same thing, in turns in one process: what every comparison of time and memory is made of."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import Recorder, Row
from model.host_memory import trim_heap

Outputs = tuple[Tensor, ...]
Call = Callable[[], Tensor | Outputs]

HEAD_START = 2_000_000  # clock cycles that a GPU waits for the host's launches


@dataclass(frozen=True)
class Setting:
    """Where, in which type and how often is measured, and where the rows go. ``weight_bytes`` are the networks'."""

    device: torch.device
    dtype: torch.dtype
    rounds: int
    recorder: Recorder
    weight_bytes: int | None = None

    def compare(
        self, what: str, sides: Mapping[str, Call], shape: dict[str, int], *, against: str, warm_ups: int = 1
    ) -> tuple[list[Row], dict[str, Outputs]]:
        """Call every side ``warm_ups`` times, then all of them in turns; a row for each, not yet recorded.

        Memory and outputs, which are returned on the CPU, are those of the first turn. A row's error is the first
        output's largest difference from the first side's.

        Raises ValueError for fewer than one round, or if sides differ in the shapes of their outputs.
        """
        if self.rounds < 1:
            raise ValueError(f"{self.rounds} rounds: at least one is needed")
        for _ in range(warm_ups):
            for call in sides.values():
                call()
        times: dict[str, list[tuple[float, float]]] = {}
        peaks: dict[str, int | None] = {}
        outputs: dict[str, Outputs] = {}
        for name, call in sides.items():
            before = held_bytes(self.device)
            seconds, processor, result = timed(call, self.device)
            times[name] = [(seconds, processor)]
            peaks[name] = None if before is None else peak_bytes(self.device) - before
            outputs[name] = tuple(tensor.cpu() for tensor in (result if isinstance(result, tuple) else (result,)))
            del result
        for _ in range(self.rounds - 1):
            for name, call in sides.items():
                times[name].append(timed(call, self.device)[:2])
        expected, *_ = outputs.values()
        rows = []
        for name, actual in outputs.items():
            if [tensor.shape for tensor in actual] != [tensor.shape for tensor in expected]:
                raise ValueError(f"{name}: output of shape {list(actual[0].shape)}, not {list(expected[0].shape)}")
            p20, p50, p80 = np.quantile([seconds for seconds, _ in times[name]], (0.2, 0.5, 0.8)).tolist()
            row = Row(
                what,
                name,
                shape,
                str(self.dtype).removeprefix("torch."),
                p20,
                p50,
                p80,
                rounds=self.rounds,
                peak_bytes=peaks[name],
                max_error=float((actual[0].double() - expected[0].double()).abs().max()),
                against=against,
                processor_p50=float(np.median([processor for _, processor in times[name]])),
                weight_bytes=self.weight_bytes,
            )
            rows.append(row)
        return rows, outputs


def timed(call: Call, device: torch.device) -> tuple[float, float, Tensor | Outputs]:
    """Seconds of one call on the device and of processor time, and what it returns."""
    cuda = device.type == "cuda"
    if cuda:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        # The device waits while the host queues a short call, so that no gap between launches is counted.
        torch.cuda._sleep(HEAD_START)
        start.record()
    begin, processor = time.perf_counter(), time.process_time()
    result = call()
    seconds = time.perf_counter() - begin
    if cuda:
        end.record()
        end.synchronize()
        seconds = start.elapsed_time(end) / 1e3
    return seconds, time.process_time() - processor, result


def held_bytes(device: torch.device) -> int | None:
    """Bytes held now, from where `peak_bytes` counts: of the device, or on a CPU all that is resident of this process.

    What has no user is given back first. A CPU needs Linux's /proc and the right to reset its mark; None without.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    trim_heap()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _resident("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes held since `held_bytes`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _resident("VmHWM")


def _resident(field: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields[field].split()[0])
