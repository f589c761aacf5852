"""Stainloom's command line: parse arguments, call one function, report."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from commands import VERSION
from commands.evaluation_parsers import add_evaluation, run_embed, run_segmentation
from commands.options import add_options, read_options, with_flags
from commands.places import HERE
from commands.requests import (
    DATASET_ACTIONS,
    DATASET_FILES,
    DATASET_MACHINE,
    FILES,
    GENERATE_MACHINE,
    MACHINE,
    REQUESTS,
    SAMPLE_FILES,
    SAMPLING,
    DatasetRequest,
    GenerateRequest,
    MethodRequest,
    SampleRequest,
)
from commands.review_parsers import add_review, run_review
from commands.terminal import End, Ended, ending_in_order, print_whatever_the_encoding
from commands.threads import wait_briefly
from imaging.errors import InputError, one_line
from model.errors import CheckpointError, PromptError
from model.files import shown_name
from sampler.errors import NotFiniteError, SettingError
from sampler.settings import Settings

TRACEBACK = "STAINLOOM_TRACEBACK"


INTRODUCTION = """\
New immunohistochemistry images that fit a label map pixel for pixel, from one real patch and its label map, with a
plain Stable Diffusion 1.x and no training (Winter et al.). Without arguments, `generate` takes the example patch and
the embedded demonstration weights; real work wants SD-1.5: --weights PATH, or a Hugging Face id."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage and leaving."""
        raise InputError(f"{message} (see {self.prog} --help)")


def program_name() -> str:
    """What starts the program, as the user did: for help, and for the commands that `show` prints."""
    started = Path(sys.argv[0])
    if started.parts[-2:] == ("stainloom", "__main__.py"):
        return "python -m stainloom"
    if started.stem == "stainloom" or __name__ == "stainloom.cli":
        return "stainloom"
    return f"python {shlex.quote(str(HERE / 'cli.py'))}"


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog=program_name(), description=INTRODUCTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"stainloom {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="make new images", description=INTRODUCTION, allow_abbrev=False))
    dataset = commands.add_parser(
        "dataset", help="make rounds of new images for a whole set of annotated ones", allow_abbrev=False
    )
    _add_dataset(dataset)
    sample = commands.add_parser(
        "sample", help="plain text-to-image, to see that weights are right", allow_abbrev=False
    )
    _add_sample(sample)
    add_evaluation(commands)
    add_review(commands)
    show = commands.add_parser("show", help="print the command that makes an image again", allow_abbrev=False)
    show.add_argument("image", type=Path, metavar="IMAGE", help="an image that `generate` or `sample` wrote")
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add_options(parser.add_argument_group("inputs and outputs"), GenerateRequest, FILES)
    add_options(parser.add_argument_group("machine"), GenerateRequest, GENERATE_MACHINE)
    _add_method(parser)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        type=Path,
        nargs="?",
        metavar="INPUT",
        help="annotated images: a folder with images/ and masks/, of pairs, QuPath's tiles, nnU-Net's, or a manifest "
        "(see docs/datasets.md); with --status and --remake a dataset's folder",
    )
    add_options(parser.add_argument_group("inputs and outputs"), DatasetRequest, DATASET_FILES)
    add_options(parser.add_argument_group("instead of making the images"), DatasetRequest, DATASET_ACTIONS)
    add_options(parser.add_argument_group("machine"), DatasetRequest, DATASET_MACHINE)
    _add_method(parser)


def _add_method(parser: argparse.ArgumentParser) -> None:
    method = parser.add_argument_group(
        "method",
        "Defaults in brackets are those of the winter preset. Steps of ranges count from the first executed one; A:B "
        "excludes B.",
    )
    add_options(method, MethodRequest, ("preset",))
    add_options(method, Settings)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    add_options(parser.add_argument_group("weights and output"), SampleRequest, SAMPLE_FILES)
    add_options(parser.add_argument_group("machine"), SampleRequest, MACHINE)
    add_options(parser.add_argument_group("sampling"), SampleRequest, SAMPLING)


def _generate(arguments: argparse.Namespace, end: End) -> None:
    from commands import generate
    from commands.progress import Reporter

    given = vars(arguments)
    request = GenerateRequest(**read_options(GenerateRequest, given), overrides=read_options(Settings, given))
    with Reporter() as reporter:
        for event in generate.run(request):
            end.raise_if_asked()
            reporter.show(event)


def _dataset(arguments: argparse.Namespace, end: End) -> int:
    from commands import dataset
    from commands.progress import Reporter

    given = vars(arguments)
    asked = {name: value for name, value in given.items() if name != "input"}
    options = read_options(DatasetRequest, asked)
    request = DatasetRequest(**options, input=arguments.input, overrides=read_options(Settings, asked))
    code = 0
    with Reporter() as reporter:
        for event in dataset.run(request):
            end.raise_if_asked()
            reporter.show(event)
            code = 1 if isinstance(event, dataset.Incomplete) else code
    return code


def _sample(arguments: argparse.Namespace, end: End) -> None:
    from commands import sample
    from commands.progress import Reporter

    request = SampleRequest(**read_options(SampleRequest, vars(arguments)))
    with Reporter() as reporter:
        for event in sample.run(request):
            end.raise_if_asked()
            reporter.show(event)


def _show(arguments: argparse.Namespace, end: End) -> None:
    from imaging.provenance import changed_inputs, command_line, read_provenance

    record = read_provenance(arguments.image)
    # An image of a dataset does not say where that lies, so as to be the same everywhere: it is where the image is.
    root = next((str(each) for each in arguments.image.absolute().parents if (each / "settings.json").exists()), "")
    words = (root,) if record.command == "dataset" else ()
    print(command_line(record, program_name(), encoding=sys.stdout.encoding or "ascii", words=words))
    if record.command == "dataset":
        return
    for name in changed_inputs(record):
        print(one_line(f"note: {name} is missing or has changed since"), file=sys.stderr)


COMMANDS: Mapping[str, Callable[[argparse.Namespace, End], int | None]] = {
    "generate": _generate,
    "dataset": _dataset,
    "review": run_review,
    "sample": _sample,
    "embed": run_embed,
    "segmentation": run_segmentation,
    "show": _show,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0, 1 for a fault of the program's own, 2 for bad input, 130 for an interrupt, 128 and its
    number for another signal that ends it.
    """
    print_whatever_the_encoding()
    wait_briefly()
    try:
        with ending_in_order() as end:
            words = sys.argv[1:] if argv is None else list(argv)
            _refuse_missing_values(words)
            arguments = build_parser().parse_args(words)
            try:
                return COMMANDS[arguments.command](arguments, end) or 0
            except Exception:
                end.raise_if_asked()  # what a library makes of an interrupt is no fault of the input
                raise
    except (InputError, CheckpointError, PromptError, SettingError, NotFiniteError) as error:
        for problem in getattr(error, "problems", ()):
            _fail(with_flags(problem, REQUESTS), 2)
        return _fail(with_flags(str(error), REQUESTS), 2)
    except KeyboardInterrupt:
        return _fail("interrupted: finished images are kept, nothing is half-written", 130, start="")
    except Ended as end:
        return _fail("ended by a signal: finished images are kept, nothing is half-written", 128 + end.number, start="")
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 1
    except MemoryError:
        return _fail(OUT_OF_MEMORY, 2)
    except Exception as error:
        if TRACEBACK in os.environ:
            raise
        if _is_out_of_memory(error):
            return _fail(OUT_OF_MEMORY, 2)
        again = f"set {TRACEBACK}=1 and run it again for a traceback to report"
        return _fail(f"unforeseen {type(error).__name__}: {shown_name(str(error))}; {again}", 1)


OUT_OF_MEMORY = "out of memory: give smaller patches, a smaller --batch-size, --cache 0, or --dtype bf16"


def _fail(message: str, code: int, start: str = "error: ") -> int:
    with contextlib.suppress(OSError):
        print(start + one_line(message), file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch's allocators raise errors of a class of its own on a GPU, and a plain RuntimeError on a CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _refuse_missing_values(words: Sequence[str]) -> None:
    # argparse drops a value of two dashes and then finds none.
    for word in words:
        if word.startswith("--") and word.endswith("=--"):
            raise InputError(f"{word.partition('=')[0]}: needs a value (see {program_name()} --help)")


if __name__ == "__main__":
    sys.exit(main())
