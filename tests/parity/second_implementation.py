"""docs/method.md once more, read straight from the page and built on diffusers modules, to check the product against.

Nothing of the product's sampler, kernels or networks is used. It is slow and plain on purpose: every attention map
is held, whole passes are run where parts would do, nothing is shared between them.
"""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from sklearn.cluster import KMeans

from tests.parity.second_layers import PublicFreeU, SwitchboardProcessor, TextProcessor


def foreground(self_map, text_map, columns, side, random):
    """Self-segmentation by scikit-learn's K-means: 1 where the first noun's regions are, and the clusters' scores."""
    h, w = side
    clusters = KMeans(n_clusters=5, n_init=10, random_state=random).fit(self_map.numpy()).labels_
    maps = []
    for column in columns:
        a = text_map[:, column].numpy().reshape(h // 2, w // 2)
        maps.append(np.kron((a - a.min()) / a.max(), np.ones((2, 2))).reshape(-1))
    scores = [[m[clusters == c].mean() for m in maps] for c in range(5)]
    best = [max(row) for row in scores]
    rest = sorted(best)[:-1]
    mask = np.zeros(h * w, dtype=int)
    for c in range(5):
        if best[c] > 1.4 * sum(rest) / len(rest) and np.argmax(scores[c]) == 0:
            mask[clusters == c] = 1
    return mask.reshape(h, w), scores


def to_latent_labels(labels, classes, side=8):
    h, w = labels.shape[0] // side, labels.shape[1] // side
    out = np.zeros((h, w), dtype=int)
    for y in range(h):
        for x in range(w):
            square = labels[side * y : side * (y + 1), side * x : side * (x + 1)]
            shares = [np.mean(square == c) for c in range(classes)]
            out[y, x] = int(np.argmax(shares))
    return out


class SecondImplementation:
    def __init__(self, unet, vae, text_encoder, tokenize):
        self.unet, self.vae, self.text_encoder, self.tokenize = unet, vae, text_encoder, tokenize
        self.processors = []
        levels = len(unet.up_blocks)
        for number, block in enumerate(unet.up_blocks):
            for transformer in getattr(block, "attentions", []):
                processor = SwitchboardProcessor(levels - 1 - number)
                transformer.transformer_blocks[0].attn1.set_processor(processor)
                self.processors.append(processor)
                if processor.level == 1:
                    self.text_processor = TextProcessor()
                    text_layer = transformer.transformer_blocks[0].attn2
        text_layer.set_processor(self.text_processor)

    def eps(self, z, t, context, mode="plain", levels=(), contrast=1.0):
        for processor in self.processors:
            chosen = mode == "record" or processor.level in levels
            processor.mode, processor.contrast = (mode if chosen else "plain"), contrast
        return self.unet(z, t, encoder_hidden_states=context).sample

    @torch.no_grad()
    def run(self, origin, m_origin, m_target, classes, options, seed, further=()):
        """``options``: plain dictionary; ranges are pairs; returns (z_out, image uint8).

        ``m_origin`` None: the foregrounds are found, and are left in ``self.masks`` and ``self.scores``. ``further``
        are pairs of more origins and their masks.
        """
        o = options
        dtype = next(self.unet.parameters()).dtype
        if o["free_u"]:
            self.unet.up_blocks = torch.nn.ModuleList(
                PublicFreeU(block, number) for number, block in enumerate(self.unet.up_blocks)
            )
        context, empty = (self.text_encoder(self.tokenize([text])).last_hidden_state for text in (o["prompt"], ""))

        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha_bar = torch.cumprod(1 - beta, 0).float().double().numpy()
        T = o["steps"]
        delta = 1000 // T
        t = [(T - 1 - i) * delta + 1 for i in range(T)]

        def previous(time):
            return alpha_bar[time - delta] if time - delta >= 0 else alpha_bar[0]

        def sigma2(time):
            if o["inversion"] == "ddim":
                return 0.0
            return (1 - previous(time)) / (1 - alpha_bar[time]) * (1 - alpha_bar[time] / previous(time))

        def x0(x, e, a):
            return (x - math.sqrt(1 - a) * e) / math.sqrt(a)

        def mu(x, e, time):
            direction = math.sqrt(1 - previous(time) - sigma2(time))
            return math.sqrt(previous(time)) * x0(x, e, alpha_bar[time]) + direction * e

        rng = torch.Generator().manual_seed(seed)
        painted = torch.zeros(3, *m_target.shape)
        for c in range(classes):
            painted[:, torch.from_numpy(m_target == c)] = o["greys"][c]
        painted += math.sqrt(o["mask_noise"]) * torch.randn(painted.shape, generator=rng)
        structure_image = painted.clip(0, 1) * 2 - 1
        sizes = {"origin": origin.shape[:2], "structure": m_target.shape}
        drawn = {
            name: torch.randn(T, 4, side[0] // 8, side[1] // 8, generator=rng).to(dtype) for name, side in sizes.items()
        }
        if o["fresh_noise"] > 0:
            fresh = torch.randn(drawn["structure"].shape, generator=rng).to(dtype)
        origins = {"origin": origin} | {f"origin {n}": image for n, (image, _) in enumerate(further, start=2)}
        m_origins = [m_origin, *(mask for _, mask in further)]
        for name in list(origins)[1:]:
            side = origins[name].shape
            drawn[name] = torch.randn(T, 4, side[0] // 8, side[1] // 8, generator=rng).to(dtype)

        pictures = {
            **{name: torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1 for name, image in origins.items()},
            "structure": structure_image,
        }
        z0 = {
            name: self.vae.encode(picture[None].to(dtype)).latent_dist.mode() * 0.18215
            for name, picture in pictures.items()
        }

        def eps_inv(z, time):
            text = self.eps(z, time, context)
            if o["inversion_guidance"] == 1:
                return text
            uncond = self.eps(z, time, empty)
            return uncond + o["inversion_guidance"] * (text - uncond)

        x, w = {}, {}
        for name in (*origins, "structure"):
            x[name], w[name] = [None] * T + [z0[name]], [torch.zeros_like(z0[name])] * T
            if o["inversion"] == "ddpm":
                for i in range(T):
                    x[name][i] = math.sqrt(alpha_bar[t[i]]) * z0[name] + math.sqrt(1 - alpha_bar[t[i]]) * drawn[name][i]
                for i in range(T - 1 if name == "structure" or o["redenoise"] else 0):
                    e = eps_inv(x[name][i], t[i])
                    w[name][i] = (x[name][i + 1] - mu(x[name][i], e, t[i])) / math.sqrt(sigma2(t[i]))
            else:
                z = z0[name]
                for i in reversed(range(T)):
                    e = eps_inv(z, t[i])
                    clean = x0(z, e, previous(t[i]))
                    z = math.sqrt(alpha_bar[t[i]]) * clean + math.sqrt(1 - alpha_bar[t[i]]) * e
                    x[name][i] = z

        S = o["skip"]
        J = T - S
        a = o["guidance"]
        alphas = np.linspace(a, max(a / 2, 1), J)
        latent_target = to_latent_labels(m_target, classes)
        if m_origin is not None:
            latent_origin = np.concatenate([to_latent_labels(m, classes).ravel() for m in m_origins])
        columns = []
        for noun in o["nouns"]:
            before = o["prompt"][: re.search(rf"\b{noun}\b", o["prompt"]).start()]
            ids = self.tokenize([before])[0].tolist()
            columns.append(ids.index(ids[-1]))  # the text ends with the first of the end tokens

        def adain(z, reference, here, there):
            result = z.clone()
            here, there = torch.from_numpy(here), torch.from_numpy(there)
            if here.sum() < 2 or there.sum() < 2:
                return result
            for channel in range(z.shape[1]):
                mine, theirs = z[0, channel][here], reference[channel][there]
                normed = (mine - mine.mean()) / torch.sqrt(mine.var() + 1e-5)
                result[0, channel][here] = normed * torch.sqrt(theirs.var() + 1e-5) + theirs.mean()
            return result

        z_out, z_structure = x["structure"][S], x["structure"][S]
        z_origins = {name: x[name][S] for name in origins}
        for j in range(J):
            i = S + j
            if not o["redenoise"]:
                z_origins, z_structure = {name: x[name][i] for name in origins}, x["structure"][i]
            counter = j - o["lag"]
            levels = []
            if o["cross_64"][0] <= counter < o["cross_64"][1]:
                levels.append(0)
            if o["cross_32"][0] <= counter < o["cross_32"][1]:
                levels.append(1)
            from_structure = o["structure_every"] and counter % o["structure_every"] == 0 and counter < 40
            for processor in self.processors:
                processor.kept = []
            for z in [z_structure] if from_structure else z_origins.values():
                self.eps(z, t[i], context, mode="record")
            for processor in self.processors:
                if processor.level not in (0, 1):
                    continue
                if m_origin is None:
                    continue
                mine, *theirs = (
                    torch.from_numpy(to_latent_labels(m, classes, 8 * 2**processor.level)).flatten()
                    for m in (m_target, *m_origins)
                )
                processor.labels = (mine, mine if from_structure else torch.cat(theirs))
                processor.within_class = o["restrict"]
                processor.match = o["match"] and not from_structure
            eps_cross = self.eps(z_out, t[i], context, mode="swap", levels=levels, contrast=o["contrast"])
            eps_self = self.eps(z_out, t[i], context)
            eps = eps_cross
            if 10 <= j <= 90:
                eps = eps_self + alphas[j] * (eps_cross - eps_self)
            noise = w["structure"][i]
            if o["fresh_noise"] > 0 and i < T - 1:
                noise = math.sqrt(1 - o["fresh_noise"]) * noise + math.sqrt(o["fresh_noise"]) * fresh[i]
            sigma = math.sqrt(sigma2(t[i]))
            z_out = mu(z_out, eps, t[i]) + sigma * noise
            if o["redenoise"]:
                eps_of, maps_of = {}, {}
                self.processors[-1].watched = m_origin is None and j == o["adain_range"][0]
                for name, latents in (*z_origins.items(), ("structure", z_structure)):
                    eps_of[name] = self.eps(latents, t[i], context)
                    maps_of[name] = (self.processors[-1].map, self.text_processor.map)
                z_origins = {name: mu(z, eps_of[name], t[i]) + sigma * w[name][i] for name, z in z_origins.items()}
                z_structure = mu(z_structure, eps_of["structure"], t[i]) + sigma * w["structure"][i]
                if self.processors[-1].watched:
                    random = np.random.RandomState(1)
                    self.masks, self.scores = {}, {}
                    for name in ("origin", "structure"):
                        side = drawn[name].shape[-2:]
                        self.masks[name], self.scores[name] = foreground(*maps_of[name], columns, side, random)
                    latent_origin, latent_target = 1 - self.masks["origin"].ravel(), 1 - self.masks["structure"]
                    if min(mask.sum() for mask in self.masks.values()) < 2:
                        latent_origin, latent_target = 0 * latent_origin, 0 * latent_target
            reference = list(z_origins.values()) if o["redenoise"] else [x[name][i + 1] for name in origins]
            reference = torch.cat([z[0].flatten(1) for z in reference], dim=1)
            if o["adain_range"][0] <= j < o["adain_range"][1]:
                if o["adain"] == "global":
                    z_out = adain(z_out, reference, latent_target >= 0, latent_origin >= 0)
                for c in {"alternating": [j % classes], "all": range(classes), "foreground": [0]}.get(o["adain"], []):
                    z_out = adain(z_out, reference, latent_target == c, latent_origin == c)

        image = self.vae.decode(z_out / 0.18215).sample[0]
        pixels = torch.round((image.float().clip(-1, 1) + 1) / 2 * 255).byte().permute(1, 2, 0).numpy()
        return z_out, pixels
