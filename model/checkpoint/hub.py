"""Models by their Hugging Face id: found in the local cache, or downloaded to it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from model.errors import CheckpointError

_ID = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
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
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        names = HfApi().list_repo_files(repo)
        return Path(snapshot_download(repo, allow_patterns=choose(names)))
    except Exception as error:  # whatever a network client meets: no connection, a proxy's own page, an odd address
        if isinstance(error, HFValidationError):
            reason = "no such file or folder, and no hub id owner/name of ASCII letters, digits and single . - _ inside"
            fix = "check the path"
        elif isinstance(error, OSError) and error.errno in _DISK:
            reason = f"cannot be written to the Hugging Face cache ({error.strerror})"
            fix = "free some space, or set HF_HOME to a folder on another disk"
        elif isinstance(cached := try_to_load_from_cache(repo, "model_index.json"), str):
            return Path(cached).parent
        elif isinstance(error, RepositoryNotFoundError):
            reason = "no such file or folder, and no such model on the hub that you may read"
            fix = "check the name; if it is gated or private, ask for access on its page, then `hf auth login`"
        else:
            reason = f"not in the local Hugging Face cache, and the hub cannot be reached ({type(error).__name__})"
            fix = f"run `hf download {repo}` once with a connection, or give a folder or a .safetensors file"
        raise CheckpointError(f"{repo}: {reason}: {fix}") from error
