"""The denoising of z_out with cross-image attention and class-wise AdaIN (method.md, "Denoising").

Sources: Winter et al. (equations 1 to 3, sections 2.3 and 2.4); Alaluf et al., arXiv 2311.03335.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from kernels import Implementation, masked_adain
from model.transformer import Classes
from model.unet import AttentionFeatures, KVSource, Layer
from sampler.conditioned_unet import TextConditionedUNet
from sampler.ddim import denoise_step
from sampler.feature_cache import CacheEntry
from sampler.inversion import FeatureSchedule, one
from sampler.schedule import Step
from sampler.settings import Settings


@dataclass(frozen=True)
class Origin:
    """A real patch as denoising reads it. It depends on no target, so one value serves every further target.

    ``trajectory`` [T + 1, 4, h, w] holds x_0 … x_T, the last being the clean latents; entries before the first executed
    step are not read. ``labels`` are its label maps by level of the UNet, level 0 at latent resolution. ``kept`` holds
    by step i what it lends; what is not kept is computed where it is needed.
    """

    trajectory: Tensor
    labels: Mapping[int, Tensor]
    kept: Mapping[int, CacheEntry]


@dataclass(frozen=True)
class Structure:
    """A target mask's painted image as denoising reads it: as `Origin`, and no origin enters it.

    ``noise`` holds the maps w_i [T, 4, h', w'], already mixed with fresh noise; None for deterministic steps.
    """

    trajectory: Tensor
    noise: Tensor | None
    labels: Mapping[int, Tensor]
    kept: Mapping[int, CacheEntry]


@dataclass(frozen=True)
class TransferPair:
    """What one image is made from."""

    origin: Origin
    structure: Structure


def mix_noise(structure: Tensor | None, fresh: Tensor, share: float) -> Tensor:
    """``sqrt(1 - f)·w_structure + sqrt(f)·fresh`` (method.md, step 5); None for maps that a share of 1 needs not."""
    mixed = share**0.5 * fresh
    return mixed if structure is None else (1.0 - share) ** 0.5 * structure + mixed


def lend(
    denoiser: TextConditionedUNet,
    branch: Origin | Structure,
    lending: FeatureSchedule,
    schedule: Sequence[Step],
    batch: int,
) -> Iterator[tuple[int, AttentionFeatures]]:
    """What a branch lends at the steps and levels of ``lending``, in order: (i, tokens [1, N, C] by layer).

    Kept values are fetched; runs of neighbouring steps without one are computed, ``batch`` at once.
    """
    runs = groupby(enumerate(lending), lambda item: (item[1] - item[0], item[1] in branch.kept, lending[item[1]]))
    for (_, is_kept, levels), members in runs:
        steps = [i for _, i in members]
        if is_kept:
            for i in steps:
                yield i, branch.kept[i].fetch(branch.trajectory.device)
            continue
        for start in range(0, len(steps), batch):
            chunk = steps[start : start + batch]
            x = branch.trajectory[chunk[0] : chunk[-1] + 1]
            lent = denoiser.lend(x, [schedule[i].t for i in chunk], levels)
            for row, i in enumerate(chunk):
                yield i, one(lent, row, levels)


def transfer(
    denoiser: TextConditionedUNet,
    pairs: Sequence[TransferPair],
    num_classes: int,
    settings: Settings,
    schedule: Sequence[Step],
    *,
    impl: Implementation,
    batch: int,
) -> Iterator[Tensor]:
    """Yield z_out [B, 4, h', w'] of all ``pairs`` after each step that has to be computed; the last are the results.

    Origins are of one size, and so are targets. What an origin lends is computed once for all pairs that share it,
    ``batch`` steps at a time. The first ``settings.num_known_steps`` executed steps lead along the structures' own
    trajectories and are not repeated.
    """
    first = settings.start_step
    start = first + settings.num_known_steps
    structures = [pair.structure for pair in pairs]
    origins = list({id(pair.origin): pair.origin for pair in pairs}.values())
    place = {id(origin): number for number, origin in enumerate(origins)}
    rows = [place[id(pair.origin)] for pair in pairs]
    from_structure, from_origin = settings.structure_lending(), settings.origin_lending()
    lenders = [lend(denoiser, origin, from_origin, schedule, batch) for origin in origins]
    others = [lend(denoiser, structure, from_structure, schedule, 1) for structure in structures]

    z = torch.stack([structure.trajectory[start] for structure in structures])
    for i in range(start, len(schedule)):
        j, step = i - first, schedule[i]
        lent: AttentionFeatures = {}
        if i in from_origin:
            lent = _gather([next(lender) for lender in lenders], i, rows)
        elif i in from_structure:
            lent = _gather([next(other) for other in others], i, range(len(pairs)))
        alpha = settings.swap_guidance(j)
        if not lent:
            eps = denoiser(z, step.t)
        else:
            source = KVSource(lent, settings.contrast, impl, _classes(pairs, num_classes, settings, lent, j))
            if alpha is None:
                eps = denoiser.borrow(z, step.t, source)
            else:
                own, eps = denoiser.both(z, step.t, source)
                eps = own + alpha * (eps - own)
        z = denoise_step(z, eps, step, _noise(structures, i) if i < len(schedule) - 1 else None)
        z = _match_statistics(z, pairs, origins, rows, i, num_classes, settings, impl)
        yield z


def _gather(lent: Sequence[tuple[int, AttentionFeatures]], i: int, rows: Sequence[int]) -> dict[Layer, Tensor]:
    """Tokens [B, N, C] of the images in ``rows``, or [1, N, C] of the only one that lends."""
    if any(step != i for step, _ in lent):
        raise RuntimeError(f"step {i} was lent what belongs to another: the lending is out of order")
    if len(lent) == 1:
        return dict(lent[0][1])
    return {layer: torch.cat([lent[row][1][layer] for row in rows]) for layer in lent[0][1]}


def _noise(structures: Sequence[Structure], i: int) -> Tensor | None:
    """w_i of all images, [B, 4, h', w']."""
    maps = [structure.noise[i] for structure in structures if structure.noise is not None]
    return torch.stack(maps) if maps else None


def _classes(
    pairs: Sequence[TransferPair], num_classes: int, settings: Settings, lent: AttentionFeatures, j: int
) -> dict[int, Classes]:
    """The classes that attention is to know, by level; none in the method itself."""
    structural = settings.borrows_from_structure(j)
    match = settings.adain_features and not structural
    if not (match or settings.restrict_attention):
        return {}
    result = {}
    for level in {layer.level for layer in lent}:
        queries = torch.stack([pair.structure.labels[level].flatten() for pair in pairs])
        keys = queries if structural else torch.stack([pair.origin.labels[level].flatten() for pair in pairs])
        result[level] = Classes(queries, keys, num_classes, settings.restrict_attention, match)
    return result


def _match_statistics(
    z: Tensor,
    pairs: Sequence[TransferPair],
    origins: Sequence[Origin],
    rows: Sequence[int],
    i: int,
    num_classes: int,
    settings: Settings,
    impl: Implementation,
) -> Tensor:
    """AdaIN of steps 6 and 7, to the statistics of x_{i+1} of the origins."""
    classes = settings.adain_classes(i - settings.start_step, num_classes)
    if not classes:
        return z
    lenders = [origins[0]] if len(origins) == 1 else [origins[row] for row in rows]
    here = torch.stack([pair.structure.labels[0] for pair in pairs])
    there = torch.stack([origin.labels[0] for origin in lenders])
    if settings.adain == "global":
        here, there, num_classes = torch.zeros_like(here), torch.zeros_like(there), 1
    source = torch.stack([origin.trajectory[i + 1] for origin in lenders])
    return masked_adain(z, source, here, there, classes=classes, num_classes=num_classes, impl=impl)
