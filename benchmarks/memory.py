"""How much memory a call holds at most: of the GPU, or resident in this process on the CPU."""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from model.host_memory import trim_heap

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


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
