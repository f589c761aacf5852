"""Models by their Hugging Face id: found in the local cache, or downloaded to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from model.errors import InputError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(source: str) -> bool:
    """Whether ``source`` has the form ``owner/name``."""
    return _ID.fullmatch(source) is not None


def fetch(repo: str, choose: Callable[[Sequence[str]], list[str]]) -> Path:
    """Bring a model's files into the local cache and return their folder.

    Downloads what is not yet there; if the hub cannot be reached, or ``HF_HUB_OFFLINE`` is set, takes what is cached.

    Args:
        repo: ``owner/name``.
        choose: picks from the names of all files of the model those that are needed.

    Raises:
        InputError: there is no such model, or it is neither reachable nor cached.
    """
    # Imported here: importing this module must not cost the start of a network client. HTTPError is the base of
    # what the client raises for a lost connection; which client that is changes with the version.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HTTPError,
        RepositoryNotFoundError,
    )

    try:
        names = HfApi().list_repo_files(repo)
        return Path(snapshot_download(repo, allow_patterns=choose(names)))
    except (OSError, HTTPError) as error:
        cached = _cached(repo)
        if cached is not None:
            return cached
        if isinstance(error, GatedRepoError):
            fix = "its owner gives access on request: ask on its page, then `hf auth login`"
            raise InputError(f"{repo}: a gated model of the Hugging Face hub: {fix}") from error
        if isinstance(error, RepositoryNotFoundError):
            fix = "check the name, or log in with `hf auth login` if it is private"
            raise InputError(f"{repo}: no such file or folder, and no such model on the hub: {fix}") from error
        fix = f"run `hf download {repo}` once with a connection, or give a folder or a .safetensors file"
        reason = f"the hub cannot be reached ({type(error).__name__})"
        raise InputError(f"{repo}: not in the local Hugging Face cache, and {reason}: {fix}") from error


def _cached(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repo, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None
