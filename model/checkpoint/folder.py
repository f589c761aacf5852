"""The diffusers folder layout: which files to read, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from model.checkpoint import tensors
from model.checkpoint.configs import check_scheduler, model_config
from model.checkpoint.keys import TEXT_IGNORED, text_folder, vae_folder
from model.checkpoint.unsupported import refuse_others
from model.errors import CheckpointError
from model.files import exists, is_folder, names_in, read_json, read_small, shown
from model.tokenizer import EOS, Tokenizer

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
SMALL_FILES = re.compile(r"model_index\.json|(unet|vae|text_encoder|scheduler|tokenizer)/\w+\.(json|txt)")
# By preference. Of a UNet published in several variants, the plain and half-precision files are the moving average.
VARIANTS = ("", ".fp16", ".non_ema")


def read_folder(folder: Path, tokenizer: Tokenizer) -> tensors.Unfilled:
    """Find everything in a diffusers folder and check it, without reading the tensors.

    Raises:
        CheckpointError: the folder is not a complete Stable Diffusion 1.x model in safetensors.
    """
    _refuse_other_folders(folder)
    files = [folder / part / "config.json" for part in WEIGHTS]
    unet, vae, text = (read_json(file) for file in files)
    refuse_others(files[0], channels=unet.get("in_channels"), context=unet.get("cross_attention_dim"))
    config = model_config(folder, unet, vae, text, [f"{file}: " for file in files])
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if exists(scheduler):
        check_scheduler(scheduler)
    _check_tokenizer(folder / "tokenizer", tokenizer)
    networks = tensors.build_networks(config)
    unet_names, vae_names, text_names = (list(network.state_dict()) for network in networks)
    tables = ({name: name for name in unet_names}, vae_folder(vae_names), text_folder(text_names))
    parts = [folder / part for part in WEIGHTS]
    return config, networks, list(map(_find_part, parts, networks, tables))


def needed_files(names: Sequence[str]) -> list[str]:
    """Of all files of a model on the hub, those that `read_folder` would read."""
    needed = [name for name in names if SMALL_FILES.fullmatch(name)]
    for part, stem in WEIGHTS.items():
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        chosen, variant = choose_weights(part, inside)
        number, mark = r"-\d+-of-\d+", re.escape(variant)
        shard = re.compile(rf"{stem}({number}{mark}|{mark}{number})\.safetensors")
        shards = [name for name in inside if chosen.endswith(".json") and shard.fullmatch(name)]
        needed += [f"{part}/{name}" for name in (chosen, *shards) if name]
    return needed


def choose_weights(part: str, names: Iterable[str]) -> tuple[str, str]:
    """The file to read among ``names``, those in the part's folder, and its variant; ``""`` if there is none.

    It is a safetensors file or the index of its shards.
    """
    stem, present = WEIGHTS[part], set(names)
    for variant in VARIANTS:
        for name in (
            f"{stem}{variant}.safetensors",
            f"{stem}.safetensors.index{variant}.json",
            f"{stem}{variant}.safetensors.index.json",
        ):
            if name in present:
                return name, variant
    return "", ""


def _find_part(part: Path, network: nn.Module, names: dict[str, str]) -> dict[str, tensors.Entry]:
    chosen, _ = choose_weights(part.name, names_in(part))
    if not chosen:
        problem = f"holds no {WEIGHTS[part.name]}.safetensors, and pickles are never read, since they can run any code"
        raise CheckpointError(f"{part}: {problem}: take a whole copy of the model in safetensors")
    path = part / chosen
    index = _read_shards(path) if path.suffix == ".json" else tensors.read_index(path)
    tensors.refuse_unknown(index, names.keys() | (TEXT_IGNORED if part.name == "text_encoder" else set()))
    return tensors.find_parameters(index, part.name.replace("_", " "), network, names)


def _read_shards(path: Path) -> tensors.CheckpointIndex:
    shard_of = read_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise CheckpointError(f"{path}: has no weight_map of file names: download it again")
    entries: dict[str, tensors.Entry] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path}: names {shown(shard)}, which is not a file beside it: download it again")
        index = tensors.read_index(path.parent / shard)
        odd = sorted(index.entries.keys() ^ {key for key, name in shard_of.items() if name == shard})
        if odd:
            problem = f"does not hold what {path.name} says ({tensors.abridge(odd)})"
            raise CheckpointError(f"{index.where}: {problem}: download both again")
        entries |= index.entries
    return tensors.CheckpointIndex(path, entries, {})


def _refuse_other_folders(folder: Path) -> None:
    inside = names_in(folder)
    index = read_json(folder / "model_index.json") if "model_index.json" in inside else {}
    refuse_others(folder, entries=inside, pipeline=index.get("_class_name"))
    missing = [part for part in WEIGHTS if not is_folder(folder / part)]
    if missing:
        parts = ", ".join(f"{part}/" for part in missing)
        fix = "give a whole model's folder (in a Hugging Face cache, one in snapshots) or a .safetensors file"
        raise CheckpointError(f"{folder}: {parts} missing: {fix}")


def _check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    for name, read, wanted in (
        ("vocab.json", read_json, tokenizer.vocabulary),
        ("merges.txt", _read_merges, tokenizer.merges),
        ("tokenizer.json", _read_inner_vocabulary, tokenizer.vocabulary),
        ("special_tokens_map.json", _read_padding, EOS),
        ("tokenizer_config.json", _read_padding, EOS),
    ):
        if exists(folder / name) and read(folder / name) != wanted:
            fix = f"only that of Stable Diffusion 1.x is supported, which pads with {EOS}"
            raise CheckpointError(f"{folder / name}: not of CLIP's tokenizer: {fix}")


def _read_merges(path: Path) -> list[tuple[str, ...]]:
    lines = read_small(path).strip().split("\n")
    return [tuple(line.split(" ")) for line in lines[1 if lines[0].startswith("#version") else 0 :]]


def _read_inner_vocabulary(path: Path) -> object:
    inner = read_json(path).get("model")
    return inner.get("vocab") if isinstance(inner, dict) else None


def _read_padding(path: Path) -> object:
    padding = read_json(path).get("pad_token")
    text = padding.get("content") if isinstance(padding, dict) else padding
    return EOS if text is None else text
