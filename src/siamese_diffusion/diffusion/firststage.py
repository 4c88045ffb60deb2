"""A linear first stage: principal components of image patches, with the interface of Stable Diffusion's VAE.

Design note: nothing is learned by gradient descent. The encoder projects each patch on its principal components,
the decoder is a ridge regression of the patch on the 3x3 neighbouring latents, and both are fitted in seconds.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Encoded:
    latent_dist: "Exactly"


@dataclass
class Decoded:
    sample: Tensor


@dataclass
class Exactly:
    """A posterior without spread, so that a linear code answers as a VAE does."""

    mean: Tensor

    @property
    def std(self) -> Tensor:
        return torch.zeros_like(self.mean)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean

    def mode(self) -> Tensor:
        return self.mean


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Images (B, 3, H, W) in [-1, 1] to latents (B, latent_channels, H/patch, W/patch) and back.

    Args:
        patch: side of a patch, a power of two.
        latent_channels: principal components kept.
        block_out_channels: read by diffusers' pipelines, which take the factor as 2 ** (length - 1).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch: int = 4,
        latent_channels: int = 12,
        block_out_channels: tuple[int, ...] = (1, 1, 1),
        scaling_factor: float = 1.0,
        in_channels: int = 3,
        sample_size: int = 96,
    ) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(in_channels, latent_channels, patch, stride=patch)
        self.decoder = nn.Conv2d(latent_channels, in_channels * patch * patch, 3, padding=1, padding_mode="replicate")

    def encode(self, images: Tensor) -> Encoded:
        return Encoded(Exactly(self.encoder(images)))

    def decode(self, latents: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        images = F.pixel_shuffle(self.decoder(latents), self.config.patch)
        return Decoded(images) if return_dict else (images,)


@torch.no_grad()
def fit(
    images: Tensor, patch: int, latent_channels: int, whitening: float = 1.0, noise: float = 0.1
) -> PatchAutoencoder:
    """Fit the linear first stage to images.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        patch: side of a patch in pixels, a power of two.
        latent_channels: principal components kept.
        whitening: 1 gives every latent channel unit variance, 0 keeps the components' own; the mean variance is 1.
        noise: standard deviation of the latent error the decoder should expect; it then leans on the neighbours,
            which takes the edges between patches out of generated images.
    """
    count, _, height, width = images.shape
    model: PatchAutoencoder = PatchAutoencoder(
        patch=patch,
        latent_channels=latent_channels,
        block_out_channels=(1,) * patch.bit_length(),
        sample_size=height,
    )
    patches = F.unfold(images, patch, stride=patch).transpose(1, 2).flatten(0, 1)  # (N h w, 3 patch patch)
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh(((patches - mean).T @ (patches - mean)).double() / len(patches))
    variances, directions = variances.flip(0)[:latent_channels], directions.flip(1)[:, :latent_channels]
    scale = variances.clamp_min(1e-8).sqrt() ** whitening
    scale *= (variances / scale**2).mean().sqrt()
    weight = (directions / scale).T.float()  # (latent_channels, 3 patch patch)
    model.encoder.weight.copy_(weight.view_as(model.encoder.weight))
    model.encoder.bias.copy_(-weight @ mean)  # type: ignore[union-attr]

    gram = torch.zeros(9 * latent_channels, 9 * latent_channels, dtype=torch.float64)
    cross = torch.zeros(9 * latent_channels, 3 * patch * patch, dtype=torch.float64)
    target_mean = F.pixel_unshuffle(images, patch).mean((0, 2, 3))
    for chunk in images.split(64):
        latents = F.pad(model.encoder(chunk), (1, 1, 1, 1), mode="replicate")
        near = F.unfold(latents, 3).transpose(1, 2).flatten(0, 1).double()  # (n h w, 9 latent_channels)
        target = F.pixel_unshuffle(chunk, patch).permute(0, 2, 3, 1).flatten(0, 2).double() - target_mean
        gram, cross = gram + near.T @ near, cross + near.T @ target
    total = count * (height // patch) * (width // patch)
    ridge = noise**2 * total * torch.eye(9 * latent_channels, dtype=torch.float64)
    solution = torch.linalg.solve(gram + ridge, cross).T.float()  # (3 patch patch, 9 latent_channels)
    model.decoder.weight.copy_(solution.view_as(model.decoder.weight))
    model.decoder.bias.copy_(target_mean)  # type: ignore[union-attr]
    return model


def psnr(model: Any, images: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of the reconstruction of images (N, 3, H, W) in [-1, 1]."""
    with torch.no_grad():
        errors = [
            (model.decode(model.encode(chunk).latent_dist.mode()).sample.clamp(-1, 1) - chunk).div(2).square()
            for chunk in images.split(64)
        ]
    return float((-10 * torch.cat(errors).flatten(1).mean(1).clamp_min(1e-10).log10()).mean())
