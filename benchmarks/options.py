"""What all benchmarks can be told, and the model that follows from it: given weights, or random ones of full size."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from benchmarks import BENCHMARKS
from benchmarks.record import RESULTS, Recorder
from benchmarks.timing import Setting
from commands.machine import DTYPES, GPU_BATCH, choose_budget
from model import StableDiffusion, load
from model.checkpoint.tensors import build_empty
from model.clip import TextEncoder
from model.config import SD15, ModelConfig
from model.stable_diffusion import lay_out_for_gpu
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from sampler.execution import Execution

_Network = TypeVar("_Network", bound=nn.Module)

EMBEDDING_DEVIATION = 0.02


def cuda() -> bool:
    """Whether benchmarks run on a GPU."""
    return torch.cuda.is_available()


def parser_of(name: str, *, rounds: int, networks: bool = True, size: int | None = None) -> ArgumentParser:
    """The options of the benchmark ``name``, for ``networks`` or kernels; with a default ``size`` those of jobs too."""
    parser = ArgumentParser(prog=f"python -m benchmarks {name}", description=BENCHMARKS[name][1])
    dtype = "fp32" if networks and not cuda() else "fp16"
    here = "(default here: %(default)s)"
    parser.add_argument("--dtype", choices=DTYPES, default=dtype, help=here)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of every side {here}")
    file = RESULTS / f"{name}.jsonl"
    parser.add_argument("--output", type=Path, default=file, help="JSON lines are added here (default: %(default)s)")
    if networks:
        parser.add_argument("--weights", help="as the product's (default: SD-1.5 of full size, random weights)")
        parser.add_argument("--graphs", action="store_true", help="ours replays CUDA graphs")
    if size is not None:
        parser.add_argument("--size", type=int, default=size, help=f"of square images, px {here}")
    return parser


def prepare(options: Namespace) -> Setting:
    """Where single kernels are measured."""
    device = torch.device("cuda" if cuda() else "cpu")
    return Setting(device, DTYPES[options.dtype], options.rounds, Recorder(options.output, device))


def prepare_model(options: Namespace) -> tuple[Setting, StableDiffusion, Execution]:
    """Where networks are measured, with their weights loaded or drawn, and how ours execute.

    Raises InputError for weights that cannot be loaded.
    """
    setting = prepare(options)
    device, dtype, budget = setting.device, setting.dtype, choose_budget("auto", setting.device)
    execution = Execution(batch=1, graphs=options.graphs, budget=budget)
    if cuda():
        execution = replace(execution, impl="triton", batch=GPU_BATCH)
    model = load(options.weights, dtype=dtype, device=device) if options.weights else random_model(dtype, device)
    return replace(setting, weight_bytes=weight_bytes(model)), model, execution


def random_model(
    dtype: torch.dtype, device: torch.device, *, seed: int = 0, config: ModelConfig = SD15
) -> StableDiffusion:
    """Networks whose weights are drawn on ``device`` in ``dtype``: time and memory do not depend on what weights are.

    They are PyTorch's own initial ones, with smaller embeddings: activations stay small enough for half precision.
    """

    def filled(build: Callable[[], _Network]) -> _Network:
        network = build_empty(build).to(dtype).to_empty(device=device)
        for module in network.modules():
            if list(module.parameters(recurse=False)):
                layer: Any = module
                layer.reset_parameters()
            if isinstance(module, nn.Embedding):
                module.weight.mul_(EMBEDDING_DEVIATION)
        return network.eval().requires_grad_(False)

    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        unet, vae = filled(lambda: UNet(config.unet)), filled(lambda: VAE(config.vae))
        text = filled(lambda: TextEncoder(config.text))
    if device.type == "cuda":
        lay_out_for_gpu(unet, vae)
    return StableDiffusion(unet, vae, text, Tokenizer(), config, "random")


def weight_bytes(model: StableDiffusion) -> int:
    """Size of all parameters."""
    parts: tuple[nn.Module, ...] = (model.unet, model.vae, model.text_encoder)
    return sum(parameter.nbytes for part in parts for parameter in part.parameters())
