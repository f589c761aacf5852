"""The command line of `review`, and running it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.options import add_options, read_options
from commands.review_requests import ReviewMakeRequest, ReviewRejectRequest, ReviewScoreRequest
from commands.terminal import End

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]

REVIEW = """\
Can people tell in-silico images from real ones? Make a page that works without a network, give it to readers, score
the files of answers that they save, and set aside images that give themselves away (docs/evaluation.md)."""


def add_review(commands: Commands) -> None:
    """Add `review`."""
    review = commands.add_parser(
        "review", help="a study of realism with readers, offline", description=REVIEW, allow_abbrev=False
    )
    actions = review.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="make a page and its sealed key", allow_abbrev=False)
    make.add_argument("real", type=Path, metavar="REAL", help="annotated real images (see docs/datasets.md)")
    make.add_argument(
        "insilico", type=Path, nargs="+", metavar="INSILICO", help="in-silico images: folders that `dataset` made"
    )
    add_options(make.add_argument_group("options"), ReviewMakeRequest)
    score = actions.add_parser("score", help="say what readers' answers come to", allow_abbrev=False)
    score.add_argument(
        "answers", type=Path, nargs="+", metavar="ANSWERS", help="a file that the page saved, of each reader"
    )
    add_options(score.add_argument_group("options"), ReviewScoreRequest)
    reject = actions.add_parser("reject", help="set images of a dataset aside", allow_abbrev=False)
    reject.add_argument("dataset", type=Path, metavar="DATASET", help="a folder that `dataset` made")
    reject.add_argument("ids", nargs="+", metavar="ID", help="of the images, as in images.csv or the manifest")
    add_options(reject.add_argument_group("options"), ReviewRejectRequest)


def run_review(arguments: argparse.Namespace, end: End) -> None:
    """Do what was asked of `review`. Raises InputError or SettingError for bad input."""
    from commands import review
    from commands.progress import Reporter

    given = vars(arguments)
    if arguments.action == "make":
        options = read_options(ReviewMakeRequest, given)
        events = review.make(ReviewMakeRequest(arguments.real, tuple(arguments.insilico), **options))
    elif arguments.action == "score":
        options = read_options(ReviewScoreRequest, given)
        events = review.score(ReviewScoreRequest(tuple(arguments.answers), **options))
    else:
        options = read_options(ReviewRejectRequest, given)
        events = review.reject(ReviewRejectRequest(arguments.dataset, tuple(arguments.ids), **options))
    with Reporter() as reporter:
        for event in events:
            end.raise_if_asked()
            reporter.show(event)
