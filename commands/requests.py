"""What users ask of the commands: the fields are the options (`sampler.option`). Loads no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands.evaluation_requests import EVALUATION_REQUESTS
from commands.places import DEMO_WEIGHTS
from commands.review_requests import REVIEW_REQUESTS
from sampler.option import at_least, between, none_or, one_of, option
from sampler.settings import GUIDANCE, MOST_STEPS, Settings

MOST_SIDE = 4096
MOST_VARIANTS = 10_000
MOST_ROUNDS = 1000
EXPORTS = ("nnunet", "webdataset")


def _size(side: int) -> str | None:
    fits = 64 <= side <= MOST_SIDE and side % 64 == 0
    return None if fits else f"must be a multiple of 64 px, at most {MOST_SIDE}"


def _share(value: float) -> str | None:
    return None if 0.0 < value <= 1.0 else "must be above 0 and at most 1"


@dataclass(frozen=True)
class Request:
    """What all commands that compute have in common."""

    output: Path = option(Path("output"), "PATH", "a .png file or a folder")
    weights: str = option(
        str(DEMO_WEIGHTS),
        "WEIGHTS",
        "SD-1.x as diffusers folder, single .safetensors file or Hugging Face id",
        shown="the demonstration",
    )
    lora: tuple[str, ...] = option(
        (), "FILE[:WEIGHT]", "LoRA files for these weights, to be merged into them; 1 is the weight of those without"
    )
    seed: int = option(0, "N", "the same seed gives the same image", check=at_least(0))
    device: str = option("auto", "DEVICE", "auto, cpu, cuda or cuda:N")
    dtype: str = option(
        "auto",
        "TYPE",
        "auto, fp32, fp16 or bf16, the networks' number type",
        shown="auto: fp16 on CUDA, bf16 on CPUs that have it, else fp32",
    )


@dataclass(frozen=True)
class MethodRequest(Request):
    """What all commands that run the method have in common. ``overrides`` holds its fields given on the command line.

    ``preset`` None takes the ``winter`` preset and, over it, what the weights recommend.
    """

    classes: str | None = option(
        None,
        "NAME=VALUE,…",
        "the classes in order, with their values or colours in the masks, such as epithelium=0,stroma=255 or "
        "epithelium=#e69f00,stroma=#0072b2; needed where the values are neither 0..C-1 nor 0 and 255; ignore=VALUE is "
        "no class",
    )
    variants: int = option(1, "N", "images per mask, with seeds SEED, SEED+1, …", check=between(1, MOST_VARIANTS))
    impl: str = option("auto", "IMPL", "of attention, norms and gates: auto, reference, torch or triton")
    graphs: bool = option(False, None, "replay the network's calls as CUDA graphs")
    batch_size: str = option("auto", "N", "images at once; changes speed and memory alone")
    cache: str = option(
        "auto",
        "PLACE=SIZE,…",
        "room for an origin's features between batches, as in device=2GB,host=8GB; 0 is none",
        aliases=("keep",),
    )
    preset: str | None = option(None, "NAME", "winter (the paper's method), or alaluf (its baseline)", shown="winter")
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerateRequest(MethodRequest):
    """What the user asked of `generate`."""

    output: Path = option(Path("output"), "PATH", "a .png or .tif file, or a folder")
    origin: tuple[Path, ...] = option(
        (), "IMAGE", "patch whose appearance is taken (PNG, TIFF, …); of several, all together in every image"
    )
    origin_mask: tuple[Path, ...] = option((), "MASK", "its label map, of the same size; alaluf does without")
    target_mask: tuple[Path, ...] = option((), "MASK", "label maps to make images for")
    save_latents: Path | None = option(None, "FILE.safetensors", "also keep the last latents, as tensor `latents`")
    save_masks: bool = option(False, None, "also keep the foregrounds that alaluf finds, beside each image (black)")


@dataclass(frozen=True)
class DatasetRequest(MethodRequest):
    """What the user asked of `dataset`. ``input`` is what stands without a name on its command line."""

    input: Path | None = None
    output: Path = option(Path("insilico"), "FOLDER", "a new folder, or that of a run to go on with")
    rounds: int = option(1, "K", "new images for every annotated one", check=between(1, MOST_ROUNDS))
    subset: float = option(1.0, "SHARE", "take a random share of the annotated images, such as 0.25", check=_share)
    only: Path | None = option(
        None, "FILE", "take only the images whose names this text file has, one a line, as targets too", shown=""
    )
    split: str | None = option(
        None, "NAME", "the split that images are made for and targets come from", shown="train, if there are several"
    )
    masks: Path | None = option(None, "FOLDER", "take target label maps from this folder instead", shown="")
    min_fidelity: float = option(
        0.0, "DICE", "set images aside that fit their label map less than this, 0 to 1", check=between(0, 1)
    )
    export: str | None = option(None, "FORMAT", "also write as nnunet or webdataset", check=none_or(one_of(*EXPORTS)))
    demo: bool = option(False, None, "make and use a small drawn dataset instead of INPUT")
    plan: bool = option(False, None, "plan, time one image, and stop")
    status: bool = option(False, None, "say how far the dataset in INPUT is")
    remake: str | None = option(None, "ID", "make one image of the dataset in INPUT again", shown="")
    shard: str | None = option(None, "I/N", "make the I-th of N equal shares of the plan (1/N to N/N)", shown="")
    ray: str | None = option(
        None, "ADDRESS", "share the work out by Ray, on this machine alone or a cluster (auto, host:port)", bare="local"
    )
    threads: int = option(
        4, "N", "threads of one worker on a CPU; part of the plan, as they decide the last bits", check=between(1, 1024)
    )


@dataclass(frozen=True)
class SampleRequest(Request):
    """What the user asked of `sample`; ``size`` is the side in px."""

    prompt: str = option(Settings.prompt, "TEXT", "what to draw", shown="")
    steps: int = option(50, "T", "DDIM steps", check=between(1, MOST_STEPS))
    guidance: float = option(7.5, "S", "classifier-free guidance", check=GUIDANCE)
    size: int = option(512, "PX", "side, a multiple of 64 px", check=_size)


REQUESTS = (GenerateRequest, DatasetRequest, SampleRequest, Settings, *EVALUATION_REQUESTS, *REVIEW_REQUESTS)
"""All that a message may name a field of."""

FILES = (
    *("origin", "origin_mask", "target_mask", "classes", "save_latents", "save_masks", "variants"),
    *("output", "weights", "lora", "seed"),
)
DATASET_FILES = (
    "output",
    "rounds",
    "subset",
    "only",
    "split",
    "masks",
    "classes",
    "variants",
    "min_fidelity",
    "export",
    "seed",
)
DATASET_ACTIONS = ("demo", "plan", "status", "remake")
MACHINE = ("device", "dtype")
GENERATE_MACHINE = (*MACHINE, "impl", "graphs", "batch_size", "cache")
DATASET_MACHINE = ("weights", "lora", *GENERATE_MACHINE, "threads", "ray", "shard")
SAMPLE_FILES = ("output", "weights", "lora", "seed")
SAMPLING = ("prompt", "steps", "guidance", "size")
