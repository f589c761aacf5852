"""What users ask of `segmentation experiment`: the fields are the options (`sampler.option`). Loads no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from commands.places import DEMO_WEIGHTS
from evaluation.experiment.arms import DEFAULT
from sampler.option import at_least, between, option


def _whole_share(value: float) -> str | None:
    return None if 0.0 < value < 1.0 else "must be above 0 and below 1"


@dataclass(frozen=True)
class ExperimentRequest:
    """What the user asked. ``input`` is what stands without a name on the command line."""

    input: Path | None = None
    output: Path = option(Path("experiment"), "FOLDER", "a new folder, or that of an experiment to go on with")
    test: Path | None = option(
        None, "FOLDER", "annotated images to judge on, if INPUT has no split test; several masks_NAME/ are annotators"
    )
    classes: str | None = option(
        None, "NAME=VALUE,…", "the classes in order, with their values or colours in the masks, as in `generate`"
    )
    score: str | None = option(None, "CLASS", "the class whose Dice is the result", shown="the mean of all")
    seed: int = option(0, "N", "decides splits, subsets and noise", check=between(0, 2**62))
    demo: bool = option(False, None, "draw a small world and use it instead of INPUT")
    validation_share: float = option(
        0.2, "SHARE", "of the slides, drawn for validation if INPUT has no such split", check=_whole_share
    )
    test_share: float = option(0.3, "SHARE", "the same for the test set, if INPUT has no splits", check=_whole_share)

    shares: str = option("0.1,0.25,1", "SHARE,…", "nested subsets of the slides on which trainings are compared")
    expand: str | None = option(None, "SHARE,…", "those that get further images", shown="all below 1")
    draws: int = option(3, "N", "choices of each subset", check=between(1, 1000))
    seeds: int = option(2, "N", "trainings of each kind on each choice", check=between(1, 1000))
    rounds: str = option("1,2,4", "K,…", "further images for every annotated one; rounds of one dataset")
    arms: str = option(DEFAULT, "ARM,…", "what is compared, each at the most rounds or with @ROUNDS")
    main: str | None = option(
        None, "ARM:ARM", "the comparison that the verdict is on", shown="the most in-silico images against copies"
    )
    effect: float = option(0.02, "DICE", "the smallest difference that would matter", check=between(1e-4, 1.0))
    headroom: float = option(
        0.05,
        "DICE",
        "by how much the smallest subset must lie below the largest, else nothing is made",
        check=between(0, 1),
    )
    any_headroom: bool = option(False, None, "go on where there is less")
    keep: float = option(0.5, "SHARE", "of the images, which filters leave", check=_whole_share)

    encoder: str = option("tu-tf_efficientnetv2_s", "NAME", "of the segmentation model, as in `segmentation train`")
    encoder_weights: str | None = option(None, "NAME|FILE", "start it from these", shown="none")
    size: int = option(512, "PX", "side of the training windows, a multiple of 32 px")
    batch_size: int = option(16, "N", "windows in a step")
    steps: int = option(4000, "N", "optimiser steps, the same in every arm")
    validate_every: int = option(200, "N", "steps between two validations, of which the best gives the model")
    patience: int = option(
        0,
        "N",
        "end after so many validations without a better one, as the paper does; arms then differ in steps",
        check=at_least(0),
        shown="0: never",
    )
    learning_rate: float = option(1e-3, "RATE", "of Adam")
    workers: int = option(0, "N", "processes that read images")
    precision: str = option("fp32", "TYPE", "of the segmentation model: fp32, bf16 or fp16")

    weights: str = option(
        str(DEMO_WEIGHTS), "WEIGHTS", "SD-1.x that makes the images, as in `generate`", shown="the demonstration"
    )
    lora: tuple[str, ...] = option((), "FILE[:WEIGHT]", "LoRA files for these weights, as in `generate`")
    method: str = option("", "OPTIONS", "options of `generate` for them, in quotes: --method='--steps 50 --guidance 2'")
    dtype: str = option("auto", "TYPE", "auto, fp32, fp16 or bf16, of the networks that make images")
    device: str = option("auto", "DEVICE", "auto, cpu, cuda or cuda:N")
    threads: int = option(4, "N", "threads of one worker on a CPU", check=between(1, 1024))
    shard: str | None = option(None, "I/N", "begin with the I-th of N shares; all that is left is anyone's", shown="")
    ray: str | None = option(
        None, "ADDRESS", "share the work out by Ray, on this machine alone or a cluster (auto, host:port)", bare="local"
    )

    bootstrap: int = option(4000, "N", "resamplings for the intervals", check=between(200, 1_000_000))
    plan: bool = option(False, None, "write the plan, say how long all takes, and stop")
    report: bool = option(False, None, "write the report of what is there, and stop")


EXPERIMENT_FILES = ("output", "test", "classes", "score", "seed", "demo", "validation_share", "test_share")
EXPERIMENT_DESIGN = (
    *("shares", "expand", "draws", "seeds", "rounds", "arms", "main", "effect", "headroom", "any_headroom", "keep"),
    "bootstrap",
)
EXPERIMENT_TRAINING = (
    *("encoder", "encoder_weights", "size", "batch_size", "steps", "validate_every", "patience", "learning_rate"),
    *("workers", "precision"),
)
EXPERIMENT_MACHINE = ("weights", "lora", "method", "dtype", "device", "threads", "shard", "ray")
EXPERIMENT_ACTIONS = ("plan", "report")
