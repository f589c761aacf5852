"""Lightning's part: optimiser, loop, early stopping, checkpoints and several devices.

An epoch of Lightning is what lies between two validations, and a checkpoint is written at its end. Each window is a
function of the seed and its number, so that a training that goes on from there is the one that was interrupted.

Notation: B windows, S side in pixels.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric

from evaluation.segmentation.course import BEST, KEEPER, LAST, Checkpoints, Step, Validated
from evaluation.segmentation.data import Batches, Images, Pair, Windows
from evaluation.segmentation.losses import loss
from evaluation.segmentation.metrics import agreement
from evaluation.segmentation.network import in_channels_last, prepared, save_weights
from evaluation.segmentation.settings import TrainingSettings
from evaluation.segmentation.windows import predict
from imaging.errors import InputError
from imaging.output import replacing

OVERLAP = 0.25
"""Of the windows of a validation, where speed counts."""
LOGGERS = ("lightning.pytorch", "lightning.fabric")
PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Channel(Protocol):
    """From the process that trains to who watches it: events, and a wish to stop."""

    def put(self, event: Step | Validated) -> None:
        """Tell an event."""

    def stopped(self) -> bool:
        """Whether the training shall stop."""


class Stopped(Exception):
    """The training was asked to stop."""


class Segmenter(pl.LightningModule):
    """The network with its loss and its optimiser."""

    def __init__(self, network: torch.nn.Module, num_classes: int, settings: TrainingSettings) -> None:
        super().__init__()
        self.network = in_channels_last(network)
        self.num_classes, self.settings = num_classes, settings
        self.dice, self.mean_loss = MeanMetric(), MeanMetric()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as Winter et al. have it."""
        chosen = self.settings
        return torch.optim.Adam(self.network.parameters(), lr=chosen.learning_rate, betas=chosen.betas)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        """The loss of windows uint8 [B, 3, S, S] and labels uint8 [B, S, S]."""
        images, labels = batch
        value = loss(self.network(prepared(images)), labels.long(), self.num_classes)
        self.mean_loss.update(value.detach())
        return value

    def validation_step(self, pair: Pair, number: int) -> None:
        """The Dice of each class of a whole image, where it or the prediction has the class."""
        image, labels = pair
        found = predict(self.network, image, self.num_classes, self.settings.size, overlap=OVERLAP)
        for each in agreement(labels.astype(np.int64), found, self.num_classes):
            if each.dice is not None:
                self.dice.update(each.dice)
        self.log("dice", self.dice, on_epoch=True, batch_size=1)

    def on_train_epoch_start(self) -> None:
        """Begin the mean loss, and the random numbers of layers, anew: so it is where a training goes on, too."""
        self.mean_loss.reset()
        state = (self.settings.seed, 3, self.trainer.current_epoch, self.trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(state).generate_state(1)[0]))


class Feed(pl.LightningDataModule):
    """The windows of each epoch, and the images of each validation."""

    def __init__(self, windows: Windows, validation: Images, settings: TrainingSettings) -> None:
        super().__init__()
        self.windows, self.validation, self.settings = windows, validation, settings

    def train_dataloader(self) -> DataLoader[Any]:
        """Of the trainer's present epoch."""
        assert self.trainer is not None
        chosen, epoch = self.settings, self.trainer.current_epoch
        first = epoch * chosen.validate_every
        last = min(first + chosen.validate_every, chosen.steps)
        batches = Batches(first, last, chosen.batch_size, self.trainer.global_rank, chosen.devices)
        return DataLoader(self.windows, batch_sampler=batches, num_workers=chosen.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Of this process's share of the images."""
        assert self.trainer is not None
        places = range(self.trainer.global_rank, len(self.validation), self.settings.devices)
        whole, workers = _Whole(self.validation), self.settings.workers
        return DataLoader(whole, batch_size=None, sampler=places, num_workers=workers, collate_fn=_unchanged)


class _Whole(Dataset[Pair]):
    """Images with their labels, as they are."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, place: int) -> Pair:
        return self.images[place]


def _unchanged(pair: Any) -> Any:
    return pair


@dataclass
class Keeper(Callback):
    """Keeps the best weights and a checkpoint in ``folder``, and tells how it goes."""

    folder: Path
    channel: Channel
    history: list[Validated] = field(default_factory=list)

    @property
    def state_key(self) -> str:
        """The name of its part in a checkpoint."""
        return KEEPER

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        """Be quiet in processes of their own, too."""
        if trainer.world_size > 1:
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            warnings.simplefilter("ignore")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
        """Tell of a step, and stop if asked to."""
        if self.channel.stopped():
            raise Stopped
        if trainer.is_global_zero:
            self.channel.put(Step(trainer.global_step, module.settings.steps))

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Keep what there is. Comes after early stopping, whose state is in the checkpoint. Raises InputError."""
        value, dice = float(module.mean_loss.compute()), float(trainer.callback_metrics["dice"])
        step = trainer.global_step
        if not (math.isfinite(value) and math.isfinite(dice)):
            raise InputError(
                f"values are not finite at step {step}: lower the `learning_rate`, or take `precision` bf16 or fp32"
            )
        best = all(dice > each.dice for each in self.history)
        self.history.append(Validated(step, value, dice, best))
        if trainer.is_global_zero and best:
            with replacing(self.folder / BEST) as (partial,):
                save_weights(partial, module.network.state_dict())
        trainer.save_checkpoint(self.folder / LAST)
        if trainer.is_global_zero:
            self.channel.put(self.history[-1])

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"history": [[each.step, each.loss, each.dice, each.best] for each in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.history = [Validated(*each) for each in state["history"]]


def fit(segmenter: Segmenter, feed: Feed, device: torch.device, folder: Path, channel: Channel) -> None:
    """Train until it is over, from the checkpoint in ``folder`` on if there is one.

    Raises:
        InputError: numbers that are not finite, or a file cannot be written.
        Stopped: the channel asked for it.
    """
    chosen = segmenter.settings
    last = folder / LAST
    with _quietly():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index] if device.index is not None and chosen.devices == 1 else chosen.devices,
            strategy="auto" if chosen.devices == 1 else "ddp_spawn",
            sync_batchnorm=chosen.devices > 1 and device.type == "cuda",
            precision=PRECISION[chosen.precision],
            max_epochs=-(-chosen.steps // chosen.validate_every),
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            deterministic="warn",
            callbacks=[
                EarlyStopping("dice", mode="max", patience=chosen.patience, check_on_train_epoch_end=True),
                Keeper(folder, channel),
            ],
            plugins=[LightningEnvironment(), Checkpoints()],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(segmenter, datamodule=feed, ckpt_path=last if last.exists() else None, weights_only=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Lightning's advice does not reach the user's terminal; its choice of algorithms ends with the training."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    levels = {logger: logger.level for logger in map(logging.getLogger, LOGGERS)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
