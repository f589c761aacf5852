"""`sample`: plain text-to-image, to see that weights are right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import model
from commands import VERSION
from commands.generate import Note
from commands.machine import check_memory, choose_device, choose_dtype
from commands.results import refuse_foreign, replaced
from imaging.errors import InputError
from imaging.images import write_png
from imaging.output import plan_outputs
from imaging.provenance import Provenance
from model.tokenizer import check_text
from sampler.execution import Execution
from sampler.series import Progress
from sampler.settings import LARGEST_GUIDANCE, MOST_STEPS
from sampler.text_to_image import text_to_image

MOST_SIDE = 4096


@dataclass(frozen=True)
class Request:
    """What the user asked of `sample`; ``size`` is the side in px."""

    prompt: str
    output: Path
    weights: str
    seed: int
    steps: int
    guidance: float
    size: int
    device: str
    dtype: str


def run(request: Request) -> Iterator[Note | Progress | Path]:
    """Sample one image; yields notes, progress and, at last, the file's path. Raises InputError for bad input."""
    if not 1 <= request.steps <= MOST_STEPS:
        raise InputError(f"--steps {request.steps}: must be from 1 to {MOST_STEPS}")
    if not 64 <= request.size <= MOST_SIDE or request.size % 64:
        raise InputError(f"--size {request.size}: must be a multiple of 64 px, at most {MOST_SIDE}")
    if not abs(request.guidance) <= LARGEST_GUIDANCE:
        raise InputError(f"--guidance {request.guidance}: must be from {-LARGEST_GUIDANCE:g} to {LARGEST_GUIDANCE:g}")
    check_text(request.prompt)
    if not 0 <= request.seed < 2**63:
        raise InputError(f"--seed {request.seed}: must be 0 or more, and below 2**63")
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    weights = os.path.expanduser(request.weights)
    (planned,) = plan_outputs(request.output, ["sample"], 1, [weights])
    refuse_foreign([planned], weights)
    loaded = model.load(request.weights, dtype=dtype, device=device)
    loaded.prepack()
    check_memory(loaded.config, (request.size, request.size), dtype, device, planned.image)
    record = Provenance(
        VERSION,
        "sample",
        {
            "prompt": request.prompt,
            "weights": request.weights,
            "seed": request.seed,
            "steps": request.steps,
            "guidance": request.guidance,
            "size": request.size,
            "device": request.device,
            "dtype": request.dtype,
            "output": str(planned.image),
        },
        details={"weights": loaded.name, "device": str(device), "torch": torch.__version__},
    )
    for text in replaced(planned.image, record):
        yield Note(text)
    size = (request.size, request.size)
    for event in text_to_image(
        loaded,
        request.prompt,
        seed=request.seed,
        size=size,
        count=request.steps,
        scale=request.guidance,
        execution=Execution(),
    ):
        if isinstance(event, Progress):
            yield event
        else:
            write_png(planned.image, event.image, record.text())
            yield planned.image
