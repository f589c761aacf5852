"""The command line of `segmentation experiment`, and running it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from commands.experiment_requests import (
    EXPERIMENT_ACTIONS,
    EXPERIMENT_DESIGN,
    EXPERIMENT_FILES,
    EXPERIMENT_MACHINE,
    EXPERIMENT_TRAINING,
    ExperimentRequest,
)
from commands.options import add_options, read_options
from commands.terminal import End

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """\
Do in-silico images help? Trains the same network on nested subsets of the slides, with and without further images and
with the controls that this takes, and reports what may be concluded (docs/evaluation.md). Goes on where it ended."""


def add_experiment(actions: Commands) -> None:
    """Add `experiment`."""
    parser = actions.add_parser(
        "experiment",
        help="do in-silico images help? the whole comparison, in one command",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument(
        "input",
        type=Path,
        nargs="?",
        metavar="INPUT",
        help="annotated images with splits train, val and test, or without any: any layout of docs/datasets.md",
    )
    for title, names in (
        ("inputs and outputs", EXPERIMENT_FILES),
        ("design", EXPERIMENT_DESIGN),
        ("training", EXPERIMENT_TRAINING),
        ("making images", EXPERIMENT_MACHINE),
        ("instead of running it", EXPERIMENT_ACTIONS),
    ):
        add_options(parser.add_argument_group(title), ExperimentRequest, names)


def run_experiment(arguments: argparse.Namespace, end: End) -> int:
    """Run it; 1 if trainings are left or failed. Raises InputError or SettingError for bad input."""
    from commands import experiment
    from commands.progress import Reporter

    given = {name: value for name, value in vars(arguments).items() if name not in ("input", "command", "action")}
    request = ExperimentRequest(**read_options(ExperimentRequest, given), input=arguments.input)
    code = 0
    with Reporter() as reporter:
        for event in experiment.run(request):
            end.raise_if_asked()
            if isinstance(event, experiment.Unfinished):
                code = 1
            elif not isinstance(event, experiment.Busy):
                reporter.show(event)
    return code
