"""What the extra `[evaluate]` brings: said in one line where it is missing."""

from __future__ import annotations

from imaging.errors import InputError, brief

OWN = ("commands", "dataset", "evaluation", "imaging", "stainloom")


def missing_extra(error: Exception) -> InputError:
    """What to tell of an ``error`` at the import of libraries. Raises it again if it is a fault of our own."""
    name = ((error.name if isinstance(error, ImportError) else None) or "").split(".")[0]
    if name in OWN:
        raise error
    fix = "pip install 'stainloom[evaluate]' (in a clone: pip install -e '.[evaluate]')"
    if isinstance(error, ModuleNotFoundError):
        return InputError(f"this wants the library {name}: {fix}")
    detail = brief(" ".join(str(error).split()), 100)
    return InputError(f"a library of the extra does not fit the others ({detail}): {fix}")
