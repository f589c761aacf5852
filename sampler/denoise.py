"""The denoising of z_out with cross-image attention and class-wise AdaIN (docs/method.md, "Denoising").

Sources: Winter et al. (equations 1 to 3, sections 2.3 and 2.4); Alaluf et al., arXiv 2311.03335. `sampler.reference` is
the same in its plainest form; what is saved here is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from kernels import Implementation, masked_adain
from model.unet_blocks import KVSource
from sampler.conditioned_unet import TextConditionedUNet
from sampler.ddim import denoise_step
from sampler.pairs import PairBatch, TransferPair, attention_classes
from sampler.schedule import Step
from sampler.settings import Settings


def denoise(
    denoiser: TextConditionedUNet,
    pairs: Sequence[TransferPair],
    num_classes: int,
    settings: Settings,
    schedule: Sequence[Step],
    *,
    impl: Implementation,
    batch: int,
) -> Iterator[Tensor]:
    """Yield z_out [B, 4, h', w'] of all ``pairs`` after each of `Settings.computed_steps`; the last are the results.

    Origins are of one size, and so are targets. An origin's features are computed once for all pairs that share it,
    ``batch`` steps at a time.
    """
    images = PairBatch.of(pairs)
    of_origin = images.origin_features(denoiser, schedule, settings.origin_features(), batch)
    of_structure = images.structure_features(denoiser, schedule, settings.structure_features())
    as_one = settings.adain == "global"
    adain_classes = 1 if as_one else num_classes
    labels = images.latent_labels(num_classes, as_one=as_one)

    z = images.structure_latents(settings.computed_steps.start)
    for i in settings.computed_steps:
        j, step = i - settings.start_step, schedule[i]

        # Steps 1 to 4: the prediction, from z_out's own keys and values and from another image's.
        from_structure = settings.swaps_in_structure(j)
        features = (of_structure if from_structure else of_origin).at(i)
        classes = attention_classes(images, num_classes, settings, features, from_structure=from_structure)
        eps = predict(denoiser, z, step.t, KVSource(features, settings.contrast, impl, classes), settings, j)

        # Step 5: towards the clean image, with the structure's noise.
        z = denoise_step(z, eps, step, None if i == len(schedule) - 1 else images.noise(i))

        # Steps 6 and 7: the statistics of the origin, class by class.
        matched = settings.adain_classes(j, num_classes)
        if matched:
            x = images.origin_latents(i + 1)
            # The labels are one more than the classes: positions of no class are never matched.
            z = masked_adain(z, x, *labels, classes=matched, num_classes=adain_classes + 1, impl=impl)
        yield z


def predict(
    denoiser: TextConditionedUNet, z: Tensor, t: int, kv_source: KVSource, settings: Settings, j: int
) -> Tensor:
    """eps of steps 1 to 4 for ``z`` [B, 4, h', w'] at executed step ``j``; a source without features swaps nothing."""
    if not kv_source.features:
        return denoiser(z, t).eps
    guidance = settings.swap_guidance(j)
    if guidance is None:
        return denoiser(z, t, kv_source=kv_source).eps
    eps_self, eps_cross = denoiser.self_and_cross(z, t, kv_source)
    return eps_self + guidance * (eps_cross - eps_self)
