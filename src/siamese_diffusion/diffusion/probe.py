"""What Mask-Diffusion has learned, told by losses at noise that is always the same.

Design note: a training loss says little, since it is of images that were seen, at other noise every time. Three losses
at fixed noise say more: of held-out pairs, which rises where a model learns its training pairs by heart; of as many
training pairs; and of the same images with another pair's mask, counted only where the two masks differ, which is
higher than with their own as soon as masks are seen. No image is drawn and no judge is needed, so it costs seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siamese_diffusion.diffusion.latents import LatentData, mask_hint
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.randomness import generator

IMAGES = 32
"""Pairs of each kind that are looked at."""

LEVELS = (0.125, 0.375, 0.625, 0.875)
"""Shares of the timesteps at which each is looked at."""

BATCH = 16


class Losses(NamedTuple):
    """Of each image, a mean over `LEVELS`; (N,)."""

    whole: NDArray[np.float64]
    """Squared error of the prediction."""
    own: NDArray[np.float64]
    """The same where its mask and another pair's differ; NaN where they do nowhere."""
    other: NDArray[np.float64]
    """And there with the other pair's mask as hint."""


@dataclass
class Probe:
    """Training pairs and held-out ones, to be looked at again and again.

    Args:
        seen: what training reads.
        held: the same of held-out pairs; None without any.
        timesteps: of the noise schedule.
        seed: of the noise, and of which pairs are looked at.
    """

    seen: LatentData
    held: LatentData | None
    timesteps: int
    seed: int

    def figures(self, model: SiameseDiffusion, device: torch.device) -> dict[str, float]:
        """For the log: `seen` and, where there are held-out pairs, `held_out`, means of the whole image."""
        found = {"seen": float(self.losses(model, self.seen, device).whole.mean())}
        if self.held is not None:
            found["held_out"] = float(self.losses(model, self.held, device).whole.mean())
        return found

    @torch.no_grad()
    def losses(self, model: SiameseDiffusion, data: LatentData, device: torch.device) -> Losses:
        """The losses of up to `IMAGES` pairs of `data`, with the weights that the model has, in eval mode."""
        assert data.masks is not None
        count = len(data.moments)
        drawn = torch.randperm(count, generator=generator(self.seed, 8, count))[:IMAGES].tolist()
        half = max(1, len(drawn) // 2)
        partners = [drawn[(i + half) % len(drawn)] for i in range(len(drawn))]  # whose mask each gets
        found = [
            self._part(model, data, drawn[i : i + BATCH], partners[i : i + BATCH], device)
            for i in range(0, len(drawn), BATCH)
        ]
        return Losses(*(np.concatenate(values) for values in zip(*found, strict=True)))

    def _part(
        self,
        model: SiameseDiffusion,
        data: LatentData,
        rows: Sequence[int],
        others: Sequence[int],
        device: torch.device,
    ) -> Losses:
        masks, wrong = (torch.from_numpy(np.array(data.masks[part])) for part in (rows, others))  # type: ignore[index]
        latents = torch.from_numpy(np.array(data.moments[rows, 0, 0])).to(device)
        text = data.embeddings[[data.prompts[row] for row in rows]].to(device)
        hints = [mask_hint(part).to(device) for part in (masks, wrong)]
        size = (latents.shape[-2], latents.shape[-1])
        differing = F.adaptive_avg_pool2d((masks != wrong)[:, None].float(), size).to(device)  # (B, 1, h, w)
        sums = torch.zeros(3, len(rows), dtype=torch.float64)
        for level in LEVELS:
            t = torch.full((len(rows),), int(level * self.timesteps), device=device)
            noise = torch.stack(
                [
                    torch.randn(latents.shape[1:], generator=generator(self.seed, 9, row, int(1000 * level)))
                    for row in rows
                ]
            ).to(device)
            noisy, target = model.schedule.add_noise(latents, noise, t), model.schedule.target(latents, noise, t)
            encoded = model.encode(noisy, t, text)
            own, other = (
                (model.decode(encoded, text, model.control(noisy, t, text, hint)).float() - target).square()
                for hint in hints
            )
            parts = [own.mean((1, 2, 3)), *(_within(error, differing) for error in (own, other))]
            sums += torch.stack(parts).double().cpu() / len(LEVELS)
        return Losses(*sums.numpy())


def _within(error: Tensor, weight: Tensor) -> Tensor:
    """Mean of (B, C, h, w) weighted by (B, 1, h, w); NaN where the weights are 0."""
    return (error * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * error.shape[1])
