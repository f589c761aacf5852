"""What all benchmarks of networks and whole jobs can be told, and the model that follows from it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import torch

import model
from benchmarks.random_weights import random_model, weight_bytes
from benchmarks.record import RESULTS
from commands.machine import CPU_BATCH, DTYPES, GPU_BATCH, choose_budget
from kernels import Implementation
from sampler.execution import Execution


@dataclass(frozen=True)
class Setting:
    """What is measured, and where the rows go. ``execution`` is ours alone, ``weight_bytes`` the networks' size."""

    model: model.StableDiffusion
    device: torch.device
    dtype: torch.dtype
    execution: Execution
    rounds: int
    output: Path
    weight_bytes: int


def common_parser(description: str, *, rounds: int) -> ArgumentParser:
    """A parser with the common options; ``rounds`` is the default number of turns."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--weights", help="as the product's --weights (default: SD-1.5 of full size, random weights)")
    parser.add_argument("--dtype", choices=DTYPES, help="of all networks (default: fp16 on a GPU, fp32 without)")
    parser.add_argument("--impl", choices=("torch", "triton"), help="of our kernels (default: triton on a GPU)")
    parser.add_argument("--batch-size", type=int, help="of ours (default: 16 on a GPU, 1 without)")
    parser.add_argument("--graphs", action="store_true", help="ours replays CUDA graphs")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every side (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON lines are added here (default: in benchmarks/results)")
    return parser


def prepare(arguments: Namespace, name: str) -> Setting:
    """Choose device and type, load the weights or draw them; rows go to ``name``.jsonl where nothing else was said.

    Raises CheckpointError for weights that cannot be loaded.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = DTYPES[arguments.dtype or ("fp16" if cuda else "fp32")]
    impl: Implementation = arguments.impl or ("triton" if cuda else "torch")
    batch = arguments.batch_size or (GPU_BATCH if cuda else CPU_BATCH)
    budget = choose_budget("auto", device)
    execution = Execution(impl=impl, elementwise=impl, batch=batch, graphs=arguments.graphs, budget=budget)
    output: Path = RESULTS / f"{name}.jsonl" if arguments.output is None else arguments.output
    if arguments.weights is None:
        loaded = random_model(dtype, device)
    else:
        loaded = model.load(arguments.weights, dtype=dtype, device=device)
    return Setting(loaded, device, dtype, execution, arguments.rounds, output, weight_bytes(loaded))
