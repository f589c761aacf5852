"""The diffusers folder layout: which files to read, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from model.checkpoint.configs import check_fit, check_scheduler, text_config, unet_config, vae_config
from model.checkpoint.hub import cache_advice
from model.checkpoint.keys import TEXT_IGNORED, text_folder, vae_folder
from model.checkpoint.load_state import Unfilled, abridge, build_networks, find_parameters, refuse_unknown
from model.checkpoint.safetensors import CheckpointIndex, Entry, read_index
from model.checkpoint.unsupported import PICKLE_SUFFIXES, refuse, refuse_other_unet
from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import exists, is_folder, names_in, read_json, read_small, shown
from model.tokenizer import EOS, Tokenizer

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
SMALL_FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
)
# By preference. Of a UNet published in several variants, the plain and half-precision files are the moving average.
VARIANTS = ("", ".fp16", ".non_ema")


def read_folder(folder: Path, tokenizer: Tokenizer) -> Unfilled:
    """Find everything in a diffusers folder and check it, without reading the tensors.

    Raises:
        CheckpointError: the folder is not a complete Stable Diffusion 1.x model in safetensors.
    """
    _refuse_other_folders(folder)
    files = [folder / part / "config.json" for part in WEIGHTS]
    unet, vae, text = (read_json(file) for file in files)
    refuse_other_unet(files[0], unet.get("in_channels"), unet.get("cross_attention_dim"))
    config = ModelConfig(
        unet=unet_config(f"{files[0]}: ", unet),
        vae=vae_config(f"{files[1]}: ", vae),
        text=text_config(f"{files[2]}: ", text),
    )
    check_fit(folder, config)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if exists(scheduler):
        check_scheduler(scheduler)
    if is_folder(folder / "tokenizer"):
        _check_tokenizer(folder / "tokenizer", tokenizer)
    networks = build_networks(config)
    names = (_as_they_are, vae_folder, text_folder)
    entries = [
        _find_part(folder / part, network, names_of(network.state_dict()))
        for part, network, names_of in zip(WEIGHTS, networks, names, strict=True)
    ]
    return Unfilled(config, networks, entries)


def _as_they_are(parameters: Iterable[str]) -> dict[str, str]:
    return {name: name for name in parameters}


def needed_files(names: Sequence[str]) -> list[str]:
    """Of all files of a model on the hub, those that `read_folder` would read."""
    needed = [name for name in SMALL_FILES if name in names]
    for part in WEIGHTS:
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        chosen = choose_weights(part, inside)
        if chosen is None:
            continue
        needed.append(f"{part}/{chosen}")
        if chosen.endswith(".json"):
            # The shards of the same variant: its mark is in their names, and no other's.
            marks = {variant for variant in VARIANTS if variant and variant in chosen}
            needed += [
                f"{part}/{name}"
                for name in inside
                if re.search(r"-\d+-of-\d+.*\.safetensors$", name)
                and {variant for variant in VARIANTS if variant and variant in name} == marks
            ]
    return needed


def choose_weights(part: str, names: Iterable[str]) -> str | None:
    """The file to read among ``names``, those in the part's folder: a safetensors file or the index of its shards.

    None if there is none.
    """
    stem, present = WEIGHTS[part], set(names)
    for variant in VARIANTS:
        for name in (
            f"{stem}{variant}.safetensors",
            f"{stem}.safetensors.index{variant}.json",
            f"{stem}{variant}.safetensors.index.json",
        ):
            if name in present:
                return name
    return None


def _find_part(part: Path, network: nn.Module, names: dict[str, str]) -> dict[str, Entry]:
    inside = names_in(part)
    chosen = choose_weights(part.name, inside)
    if chosen is None:
        _refuse_pickles(part, inside)
        raise CheckpointError(
            f"{part}: holds no {WEIGHTS[part.name]}.safetensors: the download is incomplete, repeat it"
        )
    path = part / chosen
    index = _read_shards(path) if path.suffix == ".json" else read_index(path)
    refuse_unknown(index, names.keys() | (TEXT_IGNORED if part.name == "text_encoder" else set()))
    return find_parameters(index, part.name.replace("_", " "), network, names)


def _read_shards(path: Path) -> CheckpointIndex:
    shard_of = read_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise CheckpointError(f"{path}: has no weight_map of file names: download it again")
    listed: dict[str, set[str]] = {}
    for key, shard in shard_of.items():
        listed.setdefault(shard, set()).add(key)
    entries: dict[str, Entry] = {}
    for shard, keys in sorted(listed.items()):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path}: names {shown(shard)}, which is not a file beside it: download it again")
        index = read_index(path.parent / shard)
        odd = sorted(keys ^ index.entries.keys())
        if odd:
            raise CheckpointError(
                f"{index.where}: does not hold what {path.name} says ({abridge(odd)}): download both again"
            )
        entries |= index.entries
    return CheckpointIndex(path, entries, {})


def _refuse_other_folders(folder: Path) -> None:
    inside = names_in(folder)
    if not inside:
        raise CheckpointError(f"{folder}: the folder is empty: give the folder of a model")
    if "model_index.json" in inside:
        pipeline = read_json(folder / "model_index.json").get("_class_name")
        refuse(folder, lambda kind: isinstance(pipeline, str) and pipeline.startswith(kind.pipelines))
    refuse(folder, lambda kind: any(name in inside for name in kind.entries))
    missing = [part for part in WEIGHTS if not is_folder(folder / part)]
    if not missing:
        return
    if len(missing) == len(WEIGHTS):
        advice = cache_advice(folder, inside)
        if advice is not None:
            raise CheckpointError(advice)
        if "config.json" in inside:
            raw = read_json(folder / "config.json")
            given = [raw.get("_class_name")], raw.get("architectures")
            refuse(folder, lambda kind: kind.classes != () and list(kind.classes) in given)
        files = [name for name in inside if name.endswith(".safetensors")]
        if files:
            raise CheckpointError(
                f"{folder}: not a diffusers folder, but it holds {abridge(files)}: give the file itself"
            )
        _refuse_pickles(folder, inside)
    parts = ", ".join(f"{part}/" for part in missing)
    raise CheckpointError(f"{folder}: {parts} missing: give the folder of a whole Stable Diffusion 1.x model")


def _refuse_pickles(folder: Path, inside: Iterable[str]) -> None:
    pickles = [name for name in inside if Path(name).suffix in PICKLE_SUFFIXES]
    if pickles:
        fix = "give a copy of the model in safetensors (diffusers: save_pretrained(safe_serialization=True))"
        raise CheckpointError(
            f"{folder}: holds only pickles ({abridge(pickles)}), which can run any code when read: {fix}"
        )


def _check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    for name, read, what, wanted in (
        ("vocab.json", read_json, "vocabulary", tokenizer.vocabulary),
        ("merges.txt", _read_merges, "table of merges", tokenizer.merges),
        ("tokenizer.json", _read_inner_vocabulary, "vocabulary", tokenizer.vocabulary),
    ):
        if exists(folder / name) and read(folder / name) != wanted:
            fix = "only that of Stable Diffusion 1.x is supported"
            raise CheckpointError(f"{folder / name}: not CLIP's {what}: {fix}")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if exists(folder / name):
            padding = read_json(folder / name).get("pad_token", EOS)
            text = padding.get("content") if isinstance(padding, dict) else padding
            if text not in (EOS, None):
                raise CheckpointError(
                    f"{folder / name}: pads with {shown(text)}: Stable Diffusion 1.x pads with {EOS!r}"
                )


def _read_merges(path: Path) -> list[tuple[str, ...]]:
    lines = read_small(path).strip().split("\n")
    return [tuple(line.split(" ")) for line in lines[1 if lines[0].startswith("#version") else 0 :]]


def _read_inner_vocabulary(path: Path) -> object:
    inner = read_json(path).get("model")
    return inner.get("vocab") if isinstance(inner, dict) else None
