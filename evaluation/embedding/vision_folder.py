"""Folders of vision models: their two JSON files and one safetensors file, read without trusting any of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.errors import InputError, brief
from imaging.rawfile import is_file, read_bytes, shown

CONFIG, WEIGHTS, PREPROCESSING = "config.json", "model.safetensors", "preprocessor_config.json"
HUB, TIMM = "hf-hub:", "timm:"
_WANTED = f"give a folder with {CONFIG} and {WEIGHTS} as timm or transformers write them"


@dataclass(frozen=True)
class VisionFolder:
    """A model's files. ``name`` is what the user called it; ``preprocessing`` is empty where there is none."""

    name: str
    path: Path
    config: dict[str, Any]
    preprocessing: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.path / WEIGHTS


def open_folder(name: str, path: Path) -> VisionFolder:
    """The folder of a model.

    Raises:
        InputError: a file is missing, is no JSON object, or the weights are no single safetensors file.
    """
    for wanted in (CONFIG, WEIGHTS):
        if not is_file(path / wanted):
            why = "its weights are in several files; save them as one" if _is_sharded(path) else _WANTED
            raise InputError(f"{shown(name)}: has no {wanted} (pickled weights are never read): {why}")
    preprocessing = read_object(path / PREPROCESSING) if is_file(path / PREPROCESSING) else {}
    return VisionFolder(name, path, read_object(path / CONFIG), preprocessing)


def _is_sharded(path: Path) -> bool:
    return is_file(path / f"{WEIGHTS}.index.json")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError."""
    try:
        found = json.loads(read_bytes(path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: not UTF-8 text; download the model again") from error
    except RecursionError as error:
        raise InputError(f"{shown(path)}: too deeply nested; download the model again") from error
    except InputError:  # a ValueError, too
        raise
    except ValueError as error:
        raise InputError(f"{shown(path)}: not JSON ({brief(str(error))}); download the model again") from error
    if not isinstance(found, dict):
        raise InputError(f"{shown(path)}: not a JSON object; download the model again")
    return found


def fetch(name: str, repository: str) -> Path:
    """The folder of a model of the Hugging Face hub: from the local cache, or downloaded.

    Raises:
        InputError: it is not there, or cannot be downloaded.
    """
    # Imported here: importing this module must not cost the start of a network client.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError

    repository, _, revision = repository.partition("@")
    folder = Path()
    for wanted in (CONFIG, WEIGHTS, PREPROCESSING):
        try:
            folder = Path(hf_hub_download(repository, wanted, revision=revision or None)).parent
        except Exception as error:  # whatever a network client meets: no connection, a proxy's own page
            # Offline it cannot be told whether a file that is not in the cache exists: this one need not.
            if wanted == PREPROCESSING and isinstance(error, EntryNotFoundError):
                continue
            if isinstance(error, HFValidationError):
                reason = "no hub id owner/name; check the name"
            elif isinstance(error, GatedRepoError):
                reason = "wants its licence accepted: do so on its page, then `hf auth login`"
            elif isinstance(error, RepositoryNotFoundError):
                reason = "no such model on the hub that you may read; check the name, or `hf auth login`"
            else:
                what = f"{wanted} is not in the local cache and cannot be fetched"
                reason = f"{what} ({type(error).__name__}); give a folder"
            raise InputError(f"`encoder` {shown(name)}: {reason}") from error
    return folder
