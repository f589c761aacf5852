"""The diffusers folder layout: which files to read, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import nn

from model.checkpoint.fill import Parts, abridge, build_empty, match, refuse_unknown
from model.checkpoint.folder_config import check_scheduler, text_config, unet_config, vae_config
from model.checkpoint.hub import cache_advice
from model.checkpoint.keys import TEXT_IGNORED, text_folder, vae_folder
from model.checkpoint.safetensors import PICKLE_SUFFIXES, CheckpointIndex, Entry, read_table
from model.checkpoint.unsupported import LORA, ONLY_TEXT, ONLY_UNET, ONLY_VAE, PIPELINES, SDXL, TRANSFORMER, refusal
from model.clip import TextEncoder
from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import exists, is_folder, names_in, read_json, read_small, shown
from model.limits import refuse_mismatch
from model.tokenizer import EOS, Tokenizer
from model.unet import UNet
from model.vae import VAE

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
ALONE = {"UNet2DConditionModel": ONLY_UNET, "AutoencoderKL": ONLY_VAE, "CLIPTextModel": ONLY_TEXT}


def read_folder(folder: Path, tokenizer: Tokenizer, *, ema: bool) -> Parts:
    """Find everything in a diffusers folder and check it, without reading the tensors.

    Raises:
        CheckpointError: the folder is not a complete Stable Diffusion 1.x model in safetensors.
    """
    _refuse_other_folders(folder)
    unet = unet_config(folder / "unet" / "config.json")
    vae = vae_config(folder / "vae" / "config.json")
    text = text_config(folder / "text_encoder" / "config.json")
    config = ModelConfig(unet=unet, vae=vae, text=text)
    refuse_mismatch(folder, config)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if exists(scheduler):
        check_scheduler(scheduler)
    if is_folder(folder / "tokenizer"):
        _check_tokenizer(folder / "tokenizer", tokenizer)
    networks = build_empty(lambda: UNet(unet)), build_empty(lambda: VAE(vae)), build_empty(lambda: TextEncoder(text))
    return Parts(
        config,
        *networks,
        _match_part(folder, "unet", networks[0], lambda names: {name: name for name in names}, ema=ema),
        _match_part(folder, "vae", networks[1], vae_folder, ema=False),
        _match_part(folder, "text_encoder", networks[2], text_folder, ema=False),
    )


def needed_files(names: Sequence[str], *, ema: bool) -> list[str]:
    """Of all files of a model on the hub, those that `read_folder` would read."""
    needed = [name for name in SMALL_FILES if name in names]
    for part in WEIGHTS:
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        chosen = choose_weights(part, inside, ema=ema and part == "unet")
        if chosen is None:
            continue
        needed.append(f"{part}/{chosen}")
        if chosen.endswith(".json"):
            variant = next(variant for variant in reversed(VARIANTS) if variant in chosen)
            shards = [name for name in inside if re.search(r"-\d+-of-\d+", name) and name.endswith(".safetensors")]
            others = [other for other in VARIANTS if other and other != variant]
            needed += [
                f"{part}/{name}" for name in shards if variant in name and not any(other in name for other in others)
            ]
    return needed


def choose_weights(part: str, names: Iterable[str], *, ema: bool) -> str | None:
    """The file to read among ``names``, those in the part's folder: a safetensors file or the index of its shards.

    With ``ema`` files named ``non_ema`` do not count. None if there is none.
    """
    stem, present = WEIGHTS[part], set(names)
    for variant in VARIANTS:
        if ema and variant == ".non_ema":
            continue
        for name in (
            f"{stem}{variant}.safetensors",
            f"{stem}.safetensors.index{variant}.json",
            f"{stem}{variant}.safetensors.index.json",
        ):
            if name in present:
                return name
    return None


def _match_part(
    folder: Path,
    part: str,
    module: nn.Module,
    names: Callable[[Iterable[str]], dict[str, str]],
    *,
    ema: bool,
) -> dict[str, Entry]:
    inside = names_in(folder / part)
    chosen = choose_weights(part, inside, ema=ema)
    if chosen is None:
        raise _no_weights(folder / part, inside, ema=ema)
    path = folder / part / chosen
    table = _read_shards(path) if path.suffix == ".json" else read_table(path)
    known = names(module.state_dict())
    refuse_unknown(table, known.keys() | (TEXT_IGNORED if part == "text_encoder" else set()))
    return match(table, part.replace("_", " "), module, known)


def _read_shards(index: Path) -> CheckpointIndex:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise CheckpointError(f"{index}: has no weight_map of file names: download it again")
    listed: dict[str, set[str]] = {}
    for key, shard in shard_of.items():
        listed.setdefault(shard, set()).add(key)
    entries: dict[str, Entry] = {}
    for shard, keys in sorted(listed.items()):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {shown(shard)}, which is not a file beside it: download it again")
        table = read_table(index.parent / shard)
        odd = sorted(keys ^ table.entries.keys())
        if odd:
            raise CheckpointError(
                f"{table.where}: does not hold what {index.name} says ({abridge(odd)}): download both again"
            )
        entries |= table.entries
    return CheckpointIndex(index, entries, {})


def _no_weights(part: Path, inside: Sequence[str], *, ema: bool) -> CheckpointError:
    if ema and any(".non_ema" in name for name in inside):
        return CheckpointError(f"{part}: holds no moving-average (EMA) weights, only non_ema ones: load it without ema")
    pickles = [name for name in inside if Path(name).suffix in PICKLE_SUFFIXES]
    if pickles:
        fix = "give a copy of the model in safetensors (diffusers: save_pretrained(safe_serialization=True))"
        return CheckpointError(
            f"{part}: holds only pickles ({abridge(pickles)}), which can run any code when read: {fix}"
        )
    return CheckpointError(f"{part}: holds no {WEIGHTS[part.name]}.safetensors: the download is incomplete, repeat it")


def _refuse_other_folders(folder: Path) -> None:
    inside = names_in(folder)
    if not inside:
        raise CheckpointError(f"{folder}: the folder is empty: give the folder of a model")
    if "model_index.json" in inside:
        pipeline = read_json(folder / "model_index.json").get("_class_name")
        for start, what in PIPELINES:
            if isinstance(pipeline, str) and pipeline.startswith(start):
                raise refusal(folder, what)
    if "transformer" in inside:
        raise refusal(folder, TRANSFORMER)
    if "text_encoder_2" in inside:
        raise refusal(folder, SDXL)
    if "adapter_config.json" in inside or "pytorch_lora_weights.safetensors" in inside:
        raise refusal(folder, LORA)
    missing = [part for part in WEIGHTS if not is_folder(folder / part)]
    if not missing:
        return
    if len(missing) == len(WEIGHTS):
        advice = cache_advice(folder, inside)
        if advice is not None:
            raise CheckpointError(advice)
        if "config.json" in inside:
            raw = read_json(folder / "config.json")
            for name, what in ALONE.items():
                if raw.get("_class_name") == name or raw.get("architectures") == [name]:
                    raise refusal(folder, what)
        files = [name for name in inside if name.endswith(".safetensors")]
        if files:
            raise CheckpointError(
                f"{folder}: not a diffusers folder, but it holds {abridge(files)}: give the file itself"
            )
        pickles = [name for name in inside if Path(name).suffix in PICKLE_SUFFIXES]
        if pickles:
            raise CheckpointError(
                f"{folder}: holds only pickles ({abridge(pickles)}), which can run any code when read: "
                "give a model in safetensors"
            )
    parts = ", ".join(f"{part}/" for part in missing)
    raise CheckpointError(f"{folder}: {parts} missing: give the folder of a whole Stable Diffusion 1.x model")


def _check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    vocabulary = folder / "vocab.json"
    if exists(vocabulary) and read_json(vocabulary) != tokenizer.vocabulary:
        raise CheckpointError(f"{vocabulary}: not CLIP's vocabulary: only that of Stable Diffusion 1.x is supported")
    merges = folder / "merges.txt"
    if exists(merges):
        lines = read_small(merges).strip().split("\n")
        first = 1 if lines[0].startswith("#version") else 0
        given = [tuple(line.split(" ")) for line in lines[first:]]
        if given != tokenizer.merges:
            raise CheckpointError(f"{merges}: not CLIP's merges: only those of Stable Diffusion 1.x are supported")
    whole = folder / "tokenizer.json"
    if exists(whole):
        inner = read_json(whole).get("model")
        if not isinstance(inner, dict) or inner.get("vocab") != tokenizer.vocabulary:
            raise CheckpointError(f"{whole}: not CLIP's vocabulary: only that of Stable Diffusion 1.x is supported")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if exists(folder / name):
            padding = read_json(folder / name).get("pad_token", EOS)
            text = padding.get("content") if isinstance(padding, dict) else padding
            if text not in (EOS, None):
                raise CheckpointError(
                    f"{folder / name}: pads with {shown(text)}: Stable Diffusion 1.x pads with {EOS!r}"
                )
