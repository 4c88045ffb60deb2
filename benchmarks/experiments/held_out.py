"""The two diffusions on held-out images: noised at five timesteps with the same noise for every run, and predicted."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_diffusion.data.pairs import prompt_of
from siamese_diffusion.diffusion.checkpoint import Trained
from siamese_diffusion.diffusion.passes import Encoded
from siamese_diffusion.diffusion.siamese import SiameseDiffusion

TIMESTEPS = (100, 300, 500, 700, 900)


class Noised(NamedTuple):
    """Images at one timestep, and what a network should predict from them."""

    noisy: Tensor  # (N, C, h, w)
    timesteps: Tensor  # (N,)
    text: Tensor  # (N, L, D)
    encoded: Encoded
    target: Tensor  # (N, C, h, w)


@torch.no_grad()
def noise(trained: Trained, images: Tensor) -> Iterator[Noised]:
    """`images` (N, 3, R, R) in [-1, 1] at each of `TIMESTEPS`; the model is in eval mode from then on."""
    model, random = trained.model.eval(), torch.Generator().manual_seed(0)
    latents, _ = trained.backbone.encode(images)
    text = trained.backbone.embed([prompt_of(trained.config.data.label)]).expand(len(images), -1, -1)
    for t in TIMESTEPS:
        drawn, timesteps = torch.randn(latents.shape, generator=random), torch.full((len(images),), t)
        noisy = model.schedule.add_noise(latents, drawn, timesteps)
        target = model.schedule.target(latents, drawn, timesteps)
        yield Noised(noisy, timesteps, text, model.encode(noisy, timesteps, text), target)


@torch.no_grad()
def control(model: SiameseDiffusion, noised: Noised, hint: Tensor) -> list[Tensor]:
    """The ControlNet's residuals for `hint` (N, 3, R, R) in [0, 1]."""
    return model.control(noised.noisy, noised.timesteps, noised.text, hint)


@torch.no_grad()
def predict(model: SiameseDiffusion, noised: Noised, residuals: Sequence[Tensor]) -> Tensor:
    """The prediction, (N, C, h, w)."""
    return model.decode(noised.encoded, noised.text, residuals)


def error(prediction: Tensor, target: Tensor) -> float:
    """Mean squared error."""
    return float((prediction - target).square().mean())
