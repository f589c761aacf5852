"""What an image says about how it was made: settings as JSON in a PNG's text metadata, or in a TIFF's description."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from imaging.decode import DAMAGE
from imaging.errors import InputError, brief
from imaging.rawfile import is_file

PROGRAM = "stainloom"
KEY = "stainloom"

Value: TypeAlias = str | int | float | bool | Sequence["Value"] | None

_DESCRIPTION = 270
_OURS = re.compile(rf'\{{"program": "{PROGRAM}"')
_OPTION = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Provenance:
    """Everything needed to make an image again.

    ``arguments`` maps option names without dashes (``origin-mask``) to their values; None and False are left out of
    the command line, True is a flag, a list gives several values. ``inputs`` maps file names to SHA-256 in
    hexadecimal. ``details`` is anything else worth keeping (the weights' name, the device, versions).
    """

    version: str
    command: str
    arguments: Mapping[str, Value]
    inputs: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Value] = field(default_factory=dict)

    def text(self) -> dict[str, str]:
        """The text entries, for :func:`imaging.images.write_png` or :func:`imaging.windows.encode_tiff`.

        Raises:
            ValueError, TypeError: a value that JSON cannot hold, such as NaN or an object.
        """
        content = {"program": PROGRAM, **asdict(self)}
        return {"Software": f"{PROGRAM} {self.version}", KEY: json.dumps(content, allow_nan=False)}


def read_provenance(path: str | os.PathLike[str]) -> Provenance:
    """Read the record of a PNG or TIFF that :meth:`Provenance.text` was written to.

    Raises:
        InputError: the file is missing, neither PNG nor TIFF, damaged, or has no (readable) record.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: no such file; give an image that {PROGRAM} wrote")
    try:
        with warnings.catch_warnings():
            # Nothing but the text is read, however many pixels there are.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG", "TIFF")) as image:
                text = _record_in(image)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a PNG or TIFF image; give an image that {PROGRAM} wrote") from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: damaged or cut short ({brief(str(error))}); copy it again") from error
    if text is None:
        raise InputError(f"{path}: has no record of how it was made; give an image as {PROGRAM} wrote it, not a copy")
    try:
        return parse_provenance(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: its record cannot be read ({brief(str(error))}); give an image as {PROGRAM} wrote it"
        ) from error


def _record_in(image: Image.Image) -> str | None:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return getattr(image, "text", {}).get(KEY)
    # Other programs describe their images too, in their own way.
    described = image.tag_v2.get(_DESCRIPTION)
    return described if isinstance(described, str) and _OURS.match(described) else None


def parse_provenance(text: str) -> Provenance:
    """The record whose JSON is ``text``. Raises ValueError or RecursionError for any other text."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("program") != PROGRAM:
        raise ValueError(f"not written by {PROGRAM}")
    version, command = content.get("version"), content.get("command")
    if not isinstance(version, str) or not isinstance(command, str) or not _OPTION.fullmatch(command):
        raise ValueError("no version or command")
    arguments, inputs, details = (_mapping(content, name) for name in ("arguments", "inputs", "details"))
    for option, value in arguments.items():
        # What is printed gets pasted into a shell: an option's name must be nothing but a name.
        if not _OPTION.fullmatch(option):
            raise ValueError(f"bad option {brief(option)}")
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value)):
            raise ValueError(f"bad value of {option}")
    if not all(isinstance(digest, str) for digest in inputs.values()):
        raise ValueError("bad inputs")
    return Provenance(version, command, arguments, inputs, details)


def _mapping(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"no {name}")
    return part


def command_line(
    record: Provenance, program: str = "python cli.py", encoding: str = "utf-8", words: Sequence[str] = ()
) -> str:
    """The shell command that makes the image again, quoted for bash and zsh, in characters that ``encoding`` has.

    ``words`` come before the options.
    """
    result = [program, record.command, *(_quote(word, encoding) for word in words)]
    for option, value in record.arguments.items():
        flag = f"--{option}"
        if value is None or value is False:
            continue
        if value is True:
            result.append(flag)
        elif isinstance(value, str | int | float):
            result.append(_flag_with(flag, str(value), encoding))
        elif len(value) == 1:
            result.append(_flag_with(flag, str(value[0]), encoding))
        elif any(str(item).startswith("-") for item in value):
            result += [_flag_with(flag, str(item), encoding) for item in value]
        elif value:
            result += [flag, *(_quote(str(item), encoding) for item in value)]
    return " ".join(result)


def _flag_with(flag: str, text: str, encoding: str) -> str:
    # argparse takes a value that begins with a dash for an option, unless it hangs on an equals sign.
    quoted = _quote(text, encoding)
    return f"{flag}={quoted}" if text.startswith("-") else f"{flag} {quoted}"


def _quote(text: str, encoding: str) -> str:
    if all(_is_plain(character, encoding) for character in text):
        return shlex.quote(text)
    # Line breaks and terminal control codes are written out, so that the command stays one harmless line.
    escaped = "".join(_escape(character, encoding) for character in text)
    return f"$'{escaped}'"


def _is_plain(character: str, encoding: str) -> bool:
    try:
        return character.isprintable() and bool(character.encode(encoding))
    except UnicodeEncodeError:
        return False


def _escape(character: str, encoding: str) -> str:
    if character in "\\'":
        return "\\" + character
    if _is_plain(character, encoding):
        return character
    # A byte that was no UTF-8 in a file's name comes back as it was; other lone surrogates no shell can give.
    errors = "surrogateescape" if 0xDC80 <= ord(character) <= 0xDCFF else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", errors))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a possible path"
        raise InputError(f"{path}: cannot be read ({reason}); check its name and permissions") from error


def changed_inputs(record: Provenance) -> list[str]:
    """Names of the record's input files that are missing now or hold something else than when the image was made."""
    return [name for name, digest in record.inputs.items() if not _is_unchanged(name, digest)]


def _is_unchanged(name: str, digest: str) -> bool:
    try:
        return is_file(Path(name)) and file_sha256(name) == digest
    except InputError:
        return False
