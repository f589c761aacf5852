"""Which implementation of the kernels a run takes: on a GPU the fused ones, once they have passed their self-check.

The check runs in a process of its own, since a kernel that reads where it must not leaves a process without its GPU.
The outcome is kept for the device, the driver and the versions at hand, in ``$XDG_CACHE_HOME/stainloom``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, get_args

import torch

import kernels
from imaging.errors import InputError
from kernels import Implementation
from kernels.checks import LEAST_CAPABILITY
from kernels.self_check import Failure, self_check
from model.files import shown_name

MOST_SECONDS = 900.0
"""A compiler or a kernel that takes longer hangs."""

Check = Callable[[torch.device, torch.dtype], list[Failure]]


class Choice(NamedTuple):
    """The implementation, and what the user should know of it."""

    impl: Implementation
    notes: tuple[str, ...] = ()


def choose_impl(name: str, device: torch.device, dtype: torch.dtype) -> Choice:
    """``auto`` is PyTorch on a CPU; on a GPU the fused kernels if all pass their self-check, else PyTorch with a note.

    A name that is given is taken as it is. Raises InputError for Triton without a GPU and for other names.
    """
    if name == "auto":
        return _automatic(device, dtype) if device.type == "cuda" else Choice("torch")
    if name not in get_args(Implementation):
        raise InputError(f"--impl {shown_name(name)}: one of auto, {', '.join(get_args(Implementation))}")
    if name == "triton" and find_spec("triton") is None:
        raise InputError("--impl triton: needs the package triton, which is not installed; use --impl torch")
    if name == "triton" and device.type != "cuda":
        raise InputError("--impl triton: the Triton kernels need --device cuda; use --impl torch on the CPU")
    return Choice(next(impl for impl in get_args(Implementation) if impl == name))


def _automatic(device: torch.device, dtype: torch.dtype) -> Choice:
    capability = torch.cuda.get_device_capability(device)
    if find_spec("triton") is None:
        return Choice("torch", ("the package triton is not installed: PyTorch computes what the fused kernels would",))
    if capability < LEAST_CAPABILITY:
        has = f"{capability[0]}.{capability[1]}"
        return Choice("torch", (f"the fused kernels need compute capability 8.0, {device} has {has}: PyTorch serves",))
    circumstances = {
        "device": torch.cuda.get_device_name(device),
        "capability": list(capability),
        "driver": _driver(),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "dtype": str(dtype).removeprefix("torch."),
        "kernels": _sources(),
    }
    return verdict(circumstances, device, dtype)


def verdict(
    circumstances: Mapping[str, object],
    device: torch.device,
    dtype: torch.dtype,
    *,
    check: Check = self_check,
    seconds: float = MOST_SECONDS,
) -> Choice:
    """What the self-check says under ``circumstances`` (JSON values): as kept, else by running and keeping it."""
    place = _place(circumstances)
    failures, kept = _read(place, circumstances), True
    if failures is None:
        failures = _run_apart(check, device, dtype, seconds)
        kept = _keep(place, circumstances, failures)
    if not failures:
        return Choice("triton")
    first, more = failures[0], f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    device_name, torch_version, triton_version = (circumstances.get(name) for name in ("device", "torch", "triton"))
    where = f"{device_name}, PyTorch {torch_version}, Triton {triton_version}"
    again = f"; to check again, remove {shown_name(str(place))}" if kept else ""
    note = f"the fused kernels are off: {first.kernel}{more} on {where}: {first.reason}; PyTorch serves{again}"
    return Choice("torch", (note,))


def _run_apart(check: Check, device: torch.device, dtype: torch.dtype, seconds: float) -> list[Failure]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, check, str(device), dtype), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return [Failure("the self-check", f"did not end within {seconds:.0f} s")]
        return [Failure(*failure) for failure in receiver.recv()]
    except EOFError:
        process.join()
        return [Failure("the self-check", f"its process ended with {process.exitcode}")]
    finally:
        process.kill()
        process.join()


def _report(sender: Connection, check: Check, device: str, dtype: torch.dtype) -> None:
    # Compilers print pages about what they cannot do; the reason is in their exception too.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sender.send([tuple(failure) for failure in check(torch.device(device), dtype)])


def _place(circumstances: Mapping[str, object]) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(json.dumps(dict(circumstances), sort_keys=True).encode()).hexdigest()
    return Path(root) / "stainloom" / f"self-check-{digest[:16]}.json"


def _read(place: Path, circumstances: Mapping[str, object]) -> list[Failure] | None:
    """The failures that are kept, or None where there is nothing, or nothing whole, or of other circumstances."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if place.is_file() and place.stat().st_size < 2**20:
            found = json.loads(place.read_text(encoding="utf-8"))
            if found["circumstances"] == dict(circumstances):
                return [Failure(str(kernel), str(reason)) for kernel, reason in found["failures"]]
    return None


def _keep(place: Path, circumstances: Mapping[str, object], failures: list[Failure]) -> bool:
    """Write it whole or not at all; a cache that cannot be written costs another check, no more."""
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    text = json.dumps({"circumstances": dict(circumstances), "failures": failures}, indent=1)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        return False
    return True


def _driver() -> str:
    with contextlib.suppress(OSError, ValueError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _sources() -> str:
    """A digest of the kernels themselves: others are another matter."""
    root = Path(kernels.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()
