"""The command line of what judges data: parsers of the commands below `segmentation`, and running them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.evaluation_requests import (
    EMBED_FILES,
    EMBED_MACHINE,
    EMBED_METHOD,
    EVALUATE_FILES,
    EVALUATE_MACHINE,
    EVALUATE_METHOD,
    TRAIN_FILES,
    TRAIN_MACHINE,
    TRAIN_NETWORK,
    TRAIN_OPTIMISER,
    EmbedRequest,
    EvaluateRequest,
    TrainRequest,
)
from commands.experiment_parser import add_experiment, run_experiment
from commands.options import add_options, read_options
from commands.terminal import End
from evaluation.extra import missing_extra

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]

SEGMENTATION = """\
Does the data help? Train a segmentation model on real and in-silico images (Winter et al., 3.3), and judge it against
annotators' label maps (docs/evaluation.md). Wants the extra: pip install 'stainloom[evaluate]'."""

EMBED = """\
Do in-silico images lie among the real ones? All of them in one picture (Winter et al., Fig. 2b), and how far apart they
are, by Fréchet and kernel distances beside those of real slides from each other (docs/evaluation.md). Wants the extra:
pip install 'stainloom[evaluate]'."""


def add_evaluation(commands: Commands) -> None:
    """Add the commands that judge data."""
    segmentation = commands.add_parser(
        "segmentation",
        help="train a segmentation model on real and in-silico images, and judge it",
        description=SEGMENTATION,
        allow_abbrev=False,
    )
    actions = segmentation.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a model", allow_abbrev=False)
    _add_input(train, "annotated images, real ones: any layout of docs/datasets.md")
    add_options(train.add_argument_group("inputs and outputs"), TrainRequest, TRAIN_FILES)
    add_options(train.add_argument_group("network"), TrainRequest, TRAIN_NETWORK)
    add_options(train.add_argument_group("training"), TrainRequest, TRAIN_OPTIMISER)
    add_options(train.add_argument_group("machine"), TrainRequest, TRAIN_MACHINE)
    evaluate = actions.add_parser("evaluate", help="Dice and IoU of a model against annotators", allow_abbrev=False)
    _add_input(evaluate, "annotated fields of view: any layout of docs/datasets.md, or with several masks_NAME/")
    add_options(evaluate.add_argument_group("inputs and outputs"), EvaluateRequest, EVALUATE_FILES)
    add_options(evaluate.add_argument_group("judging"), EvaluateRequest, EVALUATE_METHOD)
    add_options(evaluate.add_argument_group("machine"), EvaluateRequest, EVALUATE_MACHINE)
    add_experiment(actions)
    embed = commands.add_parser(
        "embed",
        help="real and in-silico images in one picture, and their distances",
        description=EMBED,
        allow_abbrev=False,
    )
    embed.add_argument("input", type=Path, metavar="REAL", help="annotated images: any layout of docs/datasets.md")
    embed.add_argument(
        "insilico", type=Path, nargs="+", metavar="INSILICO", help="folders that `dataset` made, or any other layout"
    )
    add_options(embed.add_argument_group("inputs and outputs"), EmbedRequest, EMBED_FILES)
    add_options(embed.add_argument_group("method"), EmbedRequest, EMBED_METHOD)
    add_options(embed.add_argument_group("machine"), EmbedRequest, EMBED_MACHINE)


def run_segmentation(arguments: argparse.Namespace, end: End) -> int | None:
    """Run what was asked below `segmentation`. Raises InputError or SettingError for bad input."""
    if arguments.action == "experiment":
        return run_experiment(arguments, end)
    from commands.progress import Reporter

    try:
        from commands import segmentation
    except (ImportError, OSError, RuntimeError) as error:
        raise missing_extra(error) from error

    given = {name: value for name, value in vars(arguments).items() if name != "input"}
    if arguments.action == "train":
        events = segmentation.train(TrainRequest(**read_options(TrainRequest, given), input=arguments.input))
    else:
        events = segmentation.evaluate(EvaluateRequest(**read_options(EvaluateRequest, given), input=arguments.input))
    with Reporter() as reporter:
        for event in events:
            end.raise_if_asked()
            reporter.show(event)
    return None


def run_embed(arguments: argparse.Namespace, end: End) -> None:
    """Run what was asked of `embed`. Raises InputError, SettingError or CheckpointError for bad input."""
    from commands import embed
    from commands.progress import Reporter

    given = {name: value for name, value in vars(arguments).items() if name not in ("input", "insilico")}
    options = read_options(EmbedRequest, given)
    request = EmbedRequest(**options, input=arguments.input, insilico=tuple(arguments.insilico))
    with Reporter() as reporter:
        for event in embed.run(request):
            end.raise_if_asked()
            reporter.show(event)


def _add_input(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("input", type=Path, nargs="?", metavar="INPUT", help=what)
