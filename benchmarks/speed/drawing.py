"""How images are drawn where samplers are compared: the original's way, ours, and what lies between them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from siamese_diffusion.diffusion.sampler import denoise, guided

Predict = Callable[[Tensor, Tensor], Tensor]

GUIDANCE = 9.0
"""On the prompt, as in the paper."""


@dataclass(frozen=True)
class Sampler:
    name: str
    scheduler: str = "dpm"
    steps: int = 50
    batch: int = 8
    hint_once: bool = True
    interval: tuple[float, float] = (0.0, 1.0)


STRAIGHTFORWARD = Sampler("straightforward", "ddim", batch=1, hint_once=False)


@dataclass(frozen=True)
class Task:
    """What to draw, with which weights."""

    model: Any
    schedule: Any
    hints: Tensor
    text: Tensor
    empty: Tensor
    guidance: float
    mask_guidance: float

    def draw(self, sampler: Sampler, noise: Tensor, count: int) -> Tensor:
        """Latents of the first `count` masks."""
        drawn = []
        for start in range(0, count, sampler.batch):
            part = slice(start, min(count, start + sampler.batch))
            predict = self._predict(sampler, part)
            drawn.append(denoise(predict, noise[part], self.schedule, sampler.scheduler, sampler.steps))
        return torch.cat(drawn)

    def _predict(self, sampler: Sampler, part: slice) -> Predict:
        hints, text, empty = self.hints[part], self.text[part], self.empty[part]

        def fresh() -> Predict:
            return guided(self.model, hints, text, empty, self.guidance, self.mask_guidance, sampler.interval)

        if sampler.hint_once:
            return fresh()
        return lambda noisy, t: fresh()(noisy, t)
