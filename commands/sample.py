"""`sample`: plain text-to-image, to see that weights are right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

import model
from commands import VERSION
from commands.loras import read_loras
from commands.machine import check_memory, choose_device, choose_dtype
from commands.notes import Note
from commands.requests import SampleRequest
from commands.results import refuse_foreign, replaced
from imaging.images import write_png
from imaging.output import plan_outputs
from imaging.provenance import Provenance
from model.tokenizer import check_text
from sampler.errors import SettingError
from sampler.execution import Execution
from sampler.option import check_options
from sampler.progress import Progress
from sampler.text_to_image import text_to_image


def run(request: SampleRequest) -> Iterator[Note | Progress | Path]:
    """Sample one image; yields notes, progress and, at last, the file's path.

    Raises InputError or SettingError for bad input.
    """
    check_options(request)
    if request.seed >= 2**63:
        raise SettingError("seed", request.seed, "must be below 2**63")
    check_text(request.prompt)
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    weights = os.path.expanduser(request.weights)
    loras = read_loras(request.lora)
    files = [given.lora.file for given in loras]
    (planned,) = plan_outputs(request.output, ["sample"], 1, [weights, *files])
    refuse_foreign([planned], weights)
    loaded = model.load(request.weights, dtype=dtype, device=device, loras=[given.lora for given in loras])
    loaded.prepack()
    check_memory(loaded.config, (request.size, request.size), dtype, device, planned.image)
    record = Provenance(
        VERSION,
        "sample",
        {
            "prompt": request.prompt,
            "weights": request.weights,
            **({"lora": list(request.lora)} if request.lora else {}),
            "seed": request.seed,
            "steps": request.steps,
            "guidance": request.guidance,
            "size": request.size,
            "device": request.device,
            "dtype": request.dtype,
            "output": str(planned.image),
        },
        inputs={str(given.lora.file): given.sha256 for given in loras},
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
