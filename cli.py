"""Stainloom's command line: parse arguments, call one function, report."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from commands import VERSION
from commands.options import METHOD_OPTIONS, read_method_options, whole_number
from commands.terminal import Ended, ending_in_order, print_whatever_the_encoding
from commands.threads import wait_briefly
from imaging.errors import InputError, one_line
from model.errors import CheckpointError, PromptError
from model.files import shown, shown_name

TRACEBACK = "STAINLOOM_TRACEBACK"


def _here() -> Path:
    """The program's folder: short in a clone that is the current folder, and good anywhere else too."""
    folder = Path(__file__).resolve().parent
    with contextlib.suppress(OSError):
        return Path() if Path.cwd() == folder else folder
    return folder


HERE = _here()
DEMO_WEIGHTS = HERE / "demo" / "weights"
SMALL = HERE / "examples" / "small"
PROMPT = "an immunohistochemistry image of epithelium and stroma"

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
    sample = commands.add_parser(
        "sample", help="plain text-to-image, to see that weights are right", allow_abbrev=False
    )
    _add_sample(sample)
    show = commands.add_parser("show", help="print the command that makes an image again", allow_abbrev=False)
    show.add_argument("image", type=Path, metavar="IMAGE.png", help="an image that `generate` or `sample` wrote")
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("inputs and outputs")
    files.add_argument("--origin", type=Path, metavar="IMAGE", help="patch whose appearance is taken (PNG, TIFF, …)")
    files.add_argument("--origin-mask", type=Path, metavar="MASK", help="its label map, of the same size")
    files.add_argument(
        "--target-mask", type=Path, metavar="MASK", nargs="+", action="extend", help="label maps to make images for"
    )
    files.add_argument(
        "--classes",
        metavar="NAME=VALUE,…",
        help="the classes in order, with their values or colours in the masks, such as epithelium=0,stroma=255 or "
        "epithelium=#e69f00,stroma=#0072b2; needed where the values are neither 0..C-1 nor 0 and 255",
    )
    files.add_argument(
        "--save-latents", type=Path, metavar="FILE.safetensors", help="also keep the last latents, as tensor `latents`"
    )
    files.add_argument("--variants", default="1", metavar="N", help="images per mask, with seeds SEED, SEED+1, … (1)")
    _add_shared(parser, files)
    method = parser.add_argument_group(
        "method",
        "Defaults in brackets are those of the winter preset. Steps of ranges count from the first executed one; A:B "
        "excludes B.",
    )
    method.add_argument("--preset", metavar="NAME", help="winter (the paper's method), or alaluf (its baseline)")
    for option in METHOD_OPTIONS:
        if option.metavar is None:
            method.add_argument(
                option.flag, default=argparse.SUPPRESS, action="store_const", const="yes", help=option.help
            )
        else:
            method.add_argument(option.flag, default=argparse.SUPPRESS, metavar=option.metavar, help=option.help)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    _add_shared(parser, parser.add_argument_group("weights and output"))
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--prompt", default=PROMPT, metavar="TEXT", help="what to draw")
    sampling.add_argument("--steps", default="50", metavar="T", help="DDIM steps (50)")
    sampling.add_argument("--guidance", default="7.5", metavar="S", help="classifier-free guidance (7.5)")
    sampling.add_argument("--size", default="512", metavar="PX", help="side, a multiple of 64 px (512)")


def _add_shared(parser: argparse.ArgumentParser, files: argparse._ArgumentGroup) -> None:
    files.add_argument(
        "--output", type=Path, default=Path("output"), metavar="PATH", help="a .png file or a folder (output)"
    )
    files.add_argument(
        "--weights",
        default=str(DEMO_WEIGHTS),
        metavar="WEIGHTS",
        help="SD-1.x as diffusers folder, single .safetensors file or Hugging Face id (the demonstration)",
    )
    files.add_argument("--seed", default="0", metavar="N", help="the same seed gives the same image (0)")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    machine.add_argument(
        "--dtype", default="auto", help="auto, fp32, fp16 or bf16 (auto: fp16 on CUDA, bf16 on CPUs that have it)"
    )
    if parser.prog.endswith("generate"):
        machine.add_argument(
            "--impl", default="auto", help="of attention, norms and gates: auto, reference, torch or triton (auto)"
        )
        machine.add_argument("--graphs", action="store_true", help="replay the network's calls as CUDA graphs")
        machine.add_argument(
            "--batch-size", default="auto", metavar="N", help="images at once; changes speed and memory alone (auto)"
        )
        machine.add_argument(
            "--keep",
            default="auto",
            metavar="PLACE=SIZE,…",
            help="room for what an origin lends to later batches, as in device=2GB,host=8GB; 0 is none (auto)",
        )


def _whole(flag: str, text: str) -> int:
    try:
        return whole_number(text)
    except ValueError as error:
        raise InputError(f"{flag} {shown(text)}: must be a whole number") from error


def _generate(arguments: argparse.Namespace) -> None:
    from commands import generate
    from commands.progress import Reporter

    given = (arguments.origin, arguments.origin_mask, arguments.target_mask)
    classes = arguments.classes
    if all(path is None for path in given):
        if classes is not None:
            raise InputError("--classes: belongs to masks of your own; give --origin, --origin-mask and --target-mask")
        given = (SMALL / "ihc.png", SMALL / "ihc_mask.png", [SMALL / "target_a.png"])
        classes = "epithelium=0,stroma=1"
    if any(path is None for path in given):
        raise InputError("--origin, --origin-mask and --target-mask belong together: give all three, or none")
    origin, origin_mask, target_masks = given
    request = generate.Request(
        origin=origin,
        origin_mask=origin_mask,
        target_masks=tuple(target_masks),
        classes=classes,
        output=arguments.output,
        save_latents=arguments.save_latents,
        weights=arguments.weights,
        seed=_whole("--seed", arguments.seed),
        variants=_whole("--variants", arguments.variants),
        preset=arguments.preset,
        options=read_method_options(vars(arguments)),
        device=arguments.device,
        dtype=arguments.dtype,
        impl=arguments.impl,
        batch_size=arguments.batch_size,
        keep=arguments.keep,
        graphs=arguments.graphs,
    )
    with Reporter() as reporter:
        for event in generate.run(request):
            reporter.show(event)


def _sample(arguments: argparse.Namespace) -> None:
    from commands import sample
    from commands.progress import Reporter

    try:
        guidance = float(arguments.guidance)
    except ValueError as error:
        raise InputError(f"--guidance {shown(arguments.guidance)}: must be a number") from error
    request = sample.Request(
        prompt=arguments.prompt,
        output=arguments.output,
        weights=arguments.weights,
        seed=_whole("--seed", arguments.seed),
        steps=_whole("--steps", arguments.steps),
        guidance=guidance,
        size=_whole("--size", arguments.size),
        device=arguments.device,
        dtype=arguments.dtype,
    )
    with Reporter() as reporter:
        for event in sample.run(request):
            reporter.show(event)


def _show(arguments: argparse.Namespace) -> None:
    from imaging.provenance import changed_inputs, command_line, read_provenance

    record = read_provenance(arguments.image)
    print(command_line(record, program_name(), encoding=sys.stdout.encoding or "ascii"))
    for name in changed_inputs(record):
        print(one_line(f"note: {name} is missing or has changed since"), file=sys.stderr)


COMMANDS = {"generate": _generate, "sample": _sample, "show": _show}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0, 1 for a fault of the program's own, 2 for bad input, 130 for an interrupt, 128 and its
    number for another signal that ends it.
    """
    print_whatever_the_encoding()
    wait_briefly()
    try:
        with ending_in_order():
            words = sys.argv[1:] if argv is None else list(argv)
            _refuse_missing_values(words)
            arguments = build_parser().parse_args(words)
            COMMANDS[arguments.command](arguments)
    except (InputError, CheckpointError, PromptError) as error:
        return _fail(str(error), 2)
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
    return 0


OUT_OF_MEMORY = "out of memory: give smaller patches, a smaller --batch-size, --keep 0, or --dtype bf16"


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
