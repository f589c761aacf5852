"""Loading published Stable Diffusion 1.x weights, as people have them: a path, or an id on the Hugging Face hub."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from model.checkpoint.folder import needed_files, read_folder
from model.checkpoint.lora import Lora, find_updates, merging
from model.checkpoint.single_file import read_single_file
from model.checkpoint.tensors import load_state
from model.checkpoint.unsupported import PICKLE_SUFFIXES
from model.errors import CheckpointError
from model.files import exists, is_file, is_folder, shown_name
from model.stable_diffusion import StableDiffusion, lay_out_for_gpu
from model.tokenizer import Tokenizer

FILE_SUFFIXES = PICKLE_SUFFIXES | {".safetensors", ".gguf"}
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    loras: Sequence[Lora] = (),
) -> StableDiffusion:
    """Load a Stable Diffusion 1.x model, ready for inference.

    Every parameter is filled exactly once; what does not fit is refused before any weight is read. Memory stays at
    the size of the weights in ``dtype`` plus one tensor, in float64 if a LoRA changes it. Of a single file's UNet the
    plain weights are taken, never the moving average (EMA) beside them; of a folder's variants, the first of plain,
    ``fp16`` and ``non_ema``.

    Args:
        source: a diffusers folder, a single ``.safetensors`` file in the original layout, or a Hugging Face hub id
            ``owner/name``. An existing path comes before a hub id.
        dtype: float16, bfloat16, float32 or float64, whatever the files hold.
        device: where the weights go.
        loras: what is merged into the weights, in this order.

    Raises:
        CheckpointError: the source or a LoRA is missing, damaged, incomplete, a pickle, another kind of model, or has a
            weight that is NaN, infinite or too large for ``dtype``.
        ValueError: ``dtype`` is not one of those above, or a LoRA's weight is not finite.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(str(known) for known in DTYPES)}, not {dtype}")
    tokenizer = Tokenizer()
    path, given = _path(source), shown_name(str(source))
    if is_file(path):
        name, unfilled = path.stem, read_single_file(path)
    elif is_folder(path):
        name, unfilled = _own_name(path), read_folder(path, tokenizer)
    elif HUB_ID.fullmatch(str(source)) and path.suffix.lower() not in FILE_SUFFIXES and not exists(path):
        name, unfilled = str(source), read_folder(fetch(str(source)), tokenizer)
    else:
        problem = "no such file or folder (devices and pipes are not read), and no hub id of the form owner/name"
        raise CheckpointError(f"{given}: {problem}: give a model's folder, its .safetensors file or its hub id")
    config, networks, found = unfilled
    target = torch.device(device)
    unet, vae, text_encoder = networks
    updates = find_updates(loras, unet, text_encoder)
    changes = (merging(updates["unet"]), None, merging(updates["text_encoder"]))
    for network, entries, change in zip(networks, found, changes, strict=True):
        load_state(network, entries, dtype=dtype, device=target, change=change)
    if target.type == "cuda":
        lay_out_for_gpu(unet, vae)
    return StableDiffusion(unet, vae, text_encoder, tokenizer, config, name)


def _path(source: str | Path) -> Path:
    given = shown_name(str(source))
    if not given:
        raise CheckpointError("'': the path of the model is empty: give a folder, a .safetensors file or a hub id")
    try:
        return Path(source).expanduser()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{given}: there is no such user's home folder: write the path in full") from error


def _own_name(folder: Path) -> str:
    """The name of a folder that may be given as a link or ``.``."""
    try:
        return folder.resolve().name
    except (OSError, RuntimeError):  # the folder that the program runs in may be gone
        return folder.name


def fetch(repo: str) -> Path:
    """Bring a model's files into the local Hugging Face cache and return their folder.

    Downloads what is not yet there; if the hub cannot be reached, or ``HF_HUB_OFFLINE`` is set, takes what is cached.
    Raises CheckpointError if neither is to be had.
    """
    # Imported here: importing this module must not cost the start of a network client.
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        names = HfApi().list_repo_files(repo)
        return Path(snapshot_download(repo, allow_patterns=needed_files(names)))
    except Exception as error:  # whatever a network client meets: no connection, a proxy's own page, an odd address
        if isinstance(error, HFValidationError):
            reason = "no such file or folder, and no hub id owner/name of ASCII letters, digits and single . - _ inside"
            fix = "check the path"
        elif isinstance(error, OSError) and error.errno in DISK_ERRORS:
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
