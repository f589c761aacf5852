"""What users ask of the commands that judge data: the fields are the options (`sampler.option`). Loads no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from commands.experiment_requests import ExperimentRequest
from commands.places import DEMO_WEIGHTS
from evaluation.segmentation.settings import PRECISIONS, TrainingSettings
from sampler.option import between, one_of, option

LABELS = ("trusted", "plain")
PROJECTIONS = ("umap", "pca")


@dataclass(frozen=True)
class EvaluationRequest:
    """What these commands have in common. ``input`` is what stands without a name on the command line."""

    input: Path | None = None
    output: Path = option(Path("evaluation"), "FOLDER", "a new folder, in which all results are")
    classes: str | None = option(
        None,
        "NAME=VALUE,…",
        "the classes in order, with their values or colours in the real label maps, as in `generate`; ignore=VALUE is "
        "no class",
    )
    seed: int = option(0, "N", "the same seed gives the same results", check=between(0, 2**62))
    device: str = option("auto", "DEVICE", "auto, cpu, cuda or cuda:N")


@dataclass(frozen=True)
class TrainRequest(EvaluationRequest):
    """What the user asked of `segmentation train`."""

    output: Path = option(Path("segmentation"), "FOLDER", "a new folder, or that of a training to go on with")
    synthetic: tuple[Path, ...] = option((), "FOLDER", "in-silico images to train on too: folders that `dataset` made")
    split: str | None = option(None, "NAME", "the split to train on", shown="train, if there are several")
    validation: str | None = option(
        None,
        "SHARE|NAME",
        "share of the slides that early stopping looks at, or the split that has them",
        shown="the split val, else 0.2",
    )
    labels: str = option(
        "trusted", "WHICH", "of in-silico images: trusted (doubtful pixels ignored) or plain", check=one_of(*LABELS)
    )
    real_share: float | None = option(
        TrainingSettings.real_share, "SHARE", "of real windows among all, 0 to 1", shown="as many as there are"
    )
    encoder: str = option(
        TrainingSettings.encoder, "NAME", "of segmentation-models-pytorch, or tu- and a timm model; list prints them"
    )
    encoder_weights: str | None = option(
        TrainingSettings.encoder_weights,
        "NAME|FILE",
        "start from these: imagenet, from the hub, or a .safetensors file",
        shown="none",
    )
    size: int = option(TrainingSettings.size, "PX", "side of the windows, a multiple of 32 px")
    batch_size: int = option(TrainingSettings.batch_size, "N", "windows in a step, on all devices together")
    steps: int = option(TrainingSettings.steps, "N", "optimiser steps, at most")
    validate_every: int = option(TrainingSettings.validate_every, "N", "steps between two validations")
    patience: int = option(TrainingSettings.patience, "N", "validations without a better Dice until training ends")
    learning_rate: float = option(TrainingSettings.learning_rate, "RATE", "of Adam")
    betas: tuple[float, ...] = option(TrainingSettings.betas, "B1,B2", "of Adam", shown="0.9,0.99")
    precision: str = option(TrainingSettings.precision, "TYPE", f"of the network: {', '.join(PRECISIONS)}")
    devices: int = option(TrainingSettings.devices, "N", "processes that train together, each on a device of its own")
    workers: int = option(TrainingSettings.workers, "N", "processes that read images, beside each device's")
    cache: float = option(TrainingSettings.cache, "GB", "of memory in which decoded images are kept")


@dataclass(frozen=True)
class EvaluateRequest(EvaluationRequest):
    """What the user asked of `segmentation evaluate`."""

    model: tuple[Path, ...] = option((), "FOLDER", "what `segmentation train` made; several are compared")
    split: str | None = option(None, "NAME", "the split to judge on", shown="test, if there are several")
    overlap: float = option(0.5, "SHARE", "by which neighbouring windows overlap", check=between(0, 0.9))
    batch_size: int = option(8, "N", "windows at once; changes speed and memory alone", check=between(1, 4096))
    bootstrap: int = option(2000, "N", "resamplings for the intervals", check=between(100, 1_000_000))


@dataclass(frozen=True)
class EmbedRequest(EvaluationRequest):
    """What the user asked of `embed`. ``input`` are the real images, ``insilico`` the sets to compare with them."""

    insilico: tuple[Path, ...] = ()
    output: Path = option(Path("embedding"), "FOLDER", "a new folder, or that of a run to go on with")
    split: str | None = option(
        None, "NAME", "of the real images, those of this split", shown="train, if there are several"
    )
    encoder: str = option(
        "diffusion",
        "ENCODER",
        "what turns images into numbers: diffusion (the weights' own features), timm:NAME, hf-hub:OWNER/NAME or a "
        "local folder as timm or transformers save a vision transformer",
    )
    weights: str = option(
        str(DEMO_WEIGHTS),
        "WEIGHTS",
        "of the diffusion encoder, as in `generate`",
        shown="the demonstration",
    )
    lora: tuple[str, ...] = option((), "FILE[:WEIGHT]", "LoRA files for these weights, as in `generate`")
    t: int = option(250, "T", "noise level that the diffusion encoder looks at", check=between(0, 999))
    projection: str = option("umap", "METHOD", "umap or pca, to two dimensions", check=one_of(*PROJECTIONS))
    dtype: str = option("fp32", "TYPE", "auto, fp32, fp16 or bf16, the encoder's number type")


EVALUATION_REQUESTS = (TrainRequest, EvaluateRequest, EmbedRequest, ExperimentRequest)
"""All of these that a message may name a field of."""

TRAIN_FILES = ("output", "synthetic", "split", "validation", "classes", "labels", "real_share", "seed")
TRAIN_NETWORK = ("encoder", "encoder_weights", "size")
TRAIN_OPTIMISER = ("batch_size", "steps", "validate_every", "patience", "learning_rate", "betas")
TRAIN_MACHINE = ("device", "devices", "precision", "workers", "cache")
EVALUATE_FILES = ("output", "model", "split", "classes")
EVALUATE_METHOD = ("overlap", "bootstrap", "seed")
EVALUATE_MACHINE = ("device", "batch_size")
EMBED_FILES = ("output", "split", "classes")
EMBED_METHOD = ("encoder", "weights", "lora", "t", "projection", "seed")
EMBED_MACHINE = ("device", "dtype")
