"""What all benchmarks can be told, and the model that follows from it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import torch

import model
from benchmarks.random_weights import random_model, weight_bytes
from benchmarks.record import RESULTS, Recorder, Row
from benchmarks.timing import Outcome, Sides, as_rows, take_turns
from commands.machine import DTYPES, GPU_BATCH, choose_budget
from kernels import Implementation
from sampler.execution import Execution


def cuda() -> bool:
    """Whether benchmarks run on a GPU."""
    return torch.cuda.is_available()


@dataclass(frozen=True)
class Setting:
    """What is measured, and where the rows go. ``execution`` is ours alone, ``weight_bytes`` the networks' size."""

    model: model.StableDiffusion
    device: torch.device
    dtype: torch.dtype
    execution: Execution
    rounds: int
    recorder: Recorder
    weight_bytes: int

    def compare(
        self, what: str, sides: Sides, shape: dict[str, int], *, against: str, warm_ups: int = 1
    ) -> tuple[list[Row], dict[str, Outcome]]:
        """Take turns; a row for each side, not yet recorded, and what it was made of."""
        outcomes = take_turns(sides, self.device, self.rounds, warm_ups=warm_ups)
        rows = as_rows(what, shape, self.dtype, outcomes, against=against, weight_bytes=self.weight_bytes)
        return rows, outcomes


def common_parser(description: str, *, rounds: int) -> ArgumentParser:
    """A parser with the common options; ``rounds`` is the default number of turns."""
    parser = ArgumentParser(description=description)
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of all networks or kernels (default: fp16 on a GPU, else fp32)"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every side (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON lines are added here (default: in benchmarks/results)")
    return parser


def model_parser(description: str, *, rounds: int) -> ArgumentParser:
    """As `common_parser`, with the options of benchmarks that run networks."""
    parser = common_parser(description, rounds=rounds)
    parser.add_argument("--weights", help="as the product's --weights (default: SD-1.5 of full size, random weights)")
    parser.add_argument("--impl", choices=("torch", "triton"), help="of our kernels (default: triton on a GPU)")
    parser.add_argument("--batch-size", type=int, help="of ours (default: 16 on a GPU, 1 without)")
    parser.add_argument("--graphs", action="store_true", help="ours replays CUDA graphs")
    return parser


def job_parser(description: str, *, rounds: int, size: int) -> ArgumentParser:
    """As `model_parser`, with the options of whole jobs; ``size`` is the default one."""
    parser = model_parser(description, rounds=rounds)
    parser.add_argument("--size", type=int, default=size, help="of square images, px (default here: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        default=100 if cuda() else 10,
        help="of the preset's 100, everything else in it scaled alike (default here: %(default)s)",
    )
    return parser


def prepare(arguments: Namespace, name: str) -> Setting:
    """Choose device and type, load the weights or draw them; rows go to ``name``.jsonl where nothing else was said.

    Raises InputError for weights that cannot be loaded.
    """
    device, dtype = chosen(arguments)
    impl: Implementation = ("triton" if cuda() else "torch") if arguments.impl is None else arguments.impl
    batch = (GPU_BATCH if cuda() else 1) if arguments.batch_size is None else arguments.batch_size
    budget = choose_budget("auto", device)
    execution = Execution(impl=impl, batch=batch, graphs=arguments.graphs, budget=budget)
    if arguments.weights is None:
        loaded = random_model(dtype, device)
    else:
        loaded = model.load(arguments.weights, dtype=dtype, device=device)
    recorder = recorder_of(arguments, name, device)
    return Setting(loaded, device, dtype, execution, arguments.rounds, recorder, weight_bytes(loaded))


def chosen(arguments: Namespace) -> tuple[torch.device, torch.dtype]:
    """Device and number type."""
    default = "fp16" if cuda() else "fp32"
    return torch.device("cuda" if cuda() else "cpu"), DTYPES[default if arguments.dtype is None else arguments.dtype]


def recorder_of(arguments: Namespace, name: str, device: torch.device) -> Recorder:
    """Where rows go: ``name``.jsonl in benchmarks/results where ``--output`` is not given."""
    return Recorder(RESULTS / f"{name}.jsonl" if arguments.output is None else arguments.output, device)
