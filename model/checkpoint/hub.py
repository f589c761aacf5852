"""Models by their Hugging Face id: found in the local cache, or downloaded to it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from model.errors import CheckpointError
from model.files import exists, is_folder, names_in, read_small

_ID = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
_CACHED = "models--"  # how the names of cached models' folders begin
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


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
        CheckpointError: there is no such model, it is neither reachable nor cached, or the cache cannot be written.
    """
    # Imported here: importing this module must not cost the start of a network client.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        form = "owner/name of ASCII letters, digits, single dots, hyphens and underscores inside"
        raise CheckpointError(f"{repo}: no such file or folder, and no hub id ({form}): check the path") from error
    try:
        names = HfApi().list_repo_files(repo)
        return Path(snapshot_download(repo, allow_patterns=choose(names)))
    except Exception as error:  # whatever a network client meets: no connection, a proxy's own page, an odd address
        if isinstance(error, OSError) and error.errno in _DISK:
            reason = f"cannot be written to the Hugging Face cache ({error.strerror})"
            fix = "free some space, or set HF_HOME to a folder on another disk"
        elif (cached := _cached(repo)) is not None:
            return cached
        elif isinstance(error, GatedRepoError):
            reason = "a gated model of the Hugging Face hub"
            fix = "its owner gives access on request: ask on its page, then `hf auth login`"
        elif isinstance(error, RepositoryNotFoundError):
            reason = "no such file or folder, and no such model on the hub"
            fix = "check the name, or log in with `hf auth login` if it is private"
        else:
            reason = f"not in the local Hugging Face cache, and the hub cannot be reached ({type(error).__name__})"
            fix = f"run `hf download {repo}` once with a connection, or give a folder or a .safetensors file"
        raise CheckpointError(f"{repo}: {reason}: {fix}") from error


def cache_advice(folder: Path, inside: Sequence[str]) -> str | None:
    """What to give instead of ``folder``, which holds ``inside``, if it is a part of a Hugging Face cache.

    That is a model's folder ``models--owner--name``, its folder ``snapshots``, or the folder of all models.
    Otherwise None.
    """
    storage = folder.parent if folder.name == "snapshots" and "snapshots" not in inside else folder
    if folder.name.startswith(_CACHED) or "snapshots" in inside or storage != folder:
        return _snapshot_advice(folder, storage / "snapshots")
    models = [name for name in inside if name.startswith(_CACHED)]
    if models:
        repo = _repo(models[0])
        return f"{folder}: a folder of the Hugging Face cache with {len(models)} models: give an id, such as {repo}"
    return None


def _snapshot_advice(folder: Path, snapshots: Path) -> str:
    what = "a folder of the Hugging Face cache, not a model's own"
    found = [name for name in names_in(snapshots) if is_folder(snapshots / name)] if is_folder(snapshots) else []
    if not found:
        storage = snapshots.absolute().parent.name
        again = f"`hf download {_repo(storage)}`" if storage.startswith(_CACHED) else "`hf download owner/name`"
        return f"{folder}: {what}, and without a snapshot: download the model again with {again}"
    head = snapshots.parent / "refs" / "main"
    main = read_small(head).strip() if exists(head) else ""
    if len(found) == 1:
        return f"{folder}: {what}: give its snapshot {snapshots / found[0]}"
    named = main if main in found else found[0]
    return f"{folder}: {what}: give one of its {len(found)} snapshots, such as {snapshots / named}"


def _repo(storage: str) -> str:
    """``models--owner--name`` as owner/name."""
    return storage.removeprefix(_CACHED).replace("--", "/", 1)


def _cached(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repo, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None
