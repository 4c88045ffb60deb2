"""How the learned first stage is trained: to give images back, in pixels, in ImageNet features and in fine detail.

Design note: the squared error alone makes the mean of all details that fit a code, which is smooth. The other two terms
ask for what the image looks like there: the distance of ImageNet features (LPIPS, Zhang et al., arXiv 1801.03924,
eq. 1, on EfficientNet-Lite0 and without learned weights), and the local strength of the Laplacian, by which sharpness
is measured. The decoder sees latents with an error, as it will in generated images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion import imagenet
from siamese_diffusion.config import Config, FirstStageConfig
from siamese_diffusion.data.arrays import Images, to_tensor
from siamese_diffusion.diffusion.autoencoder import ConvAutoencoder
from siamese_diffusion.diffusion.firststage import PatchAutoencoder
from siamese_diffusion.diffusion.latents import FLIPS
from siamese_diffusion.errors import InputError
from siamese_diffusion.imagenet import EXTRA, LITE0, PACKAGES, ImageNetFeatures
from siamese_diffusion.loop import run
from siamese_diffusion.prefetch import Batch
from siamese_diffusion.randomness import generator, rows_of_epochs

STRIDES = (2, 4, 8)
"""Of the feature maps that are compared: edges, textures, small parts; what is coarser the pixels hold to."""

CELL = 8
"""Side in pixels of the squares, half of each over the next, whose fine detail is compared."""

FLOOR = 1e-4
"""Added to the mean square of that, of pixels in [-1, 1], so that its root has a slope at 0; it is that of little more
than one of 255 grey levels."""


class ReconstructionLosses(NamedTuple):
    """Batch means of the terms, unweighted, and their weighted sum. A term that is not in force is 0."""

    pixels: Tensor
    perceptual: Tensor
    texture: Tensor
    total: Tensor


class Reconstruction(nn.Module):
    """The objective of the learned first stage; its linear part stays as it was fitted."""

    def __init__(self, vae: ConvAutoencoder, settings: FirstStageConfig) -> None:
        super().__init__()
        self.vae, self.settings = vae, settings
        vae.linear.requires_grad_(False)
        self.features = ImageNetFeatures(STRIDES, "first_stage.perceptual") if settings.perceptual else None

    def forward(self, images: Tensor, error: Tensor) -> ReconstructionLosses:
        """The losses of crops (B, 3, S, S) in [-1, 1], whose latents get an `error` (B, C, s, s) of unit variance.

        L = |x - x'| + perceptual L_p + texture L_t, with x' = D(E(x) + noise error).
        """
        settings = self.settings
        latents = self.vae.encode(images).latent_dist.mode()
        back = self.vae.decode(latents + settings.noise * error).sample
        pixels = (back.float() - images).abs().mean()
        zero = pixels.new_zeros(())
        perceptual = zero if self.features is None else feature_distance(self.features(back), self.features(images))
        texture = (fine_detail(back) - fine_detail(images)).abs().mean() if settings.texture else zero
        total = pixels + settings.perceptual * perceptual + settings.texture * texture
        return ReconstructionLosses(pixels, perceptual, texture, total)


def feature_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """LPIPS's distance with equal weights: sum over the maps of the mean over pixels of |y_hw - y0_hw|^2, each pixel's
    features at unit length (arXiv 1801.03924, eq. 1)."""
    parts = [
        (F.normalize(a.float(), dim=1, eps=1e-6) - F.normalize(b.float(), dim=1, eps=1e-6)).square().sum(1).mean()
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(parts).sum()


def fine_detail(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to the root mean square of the Laplacian in squares of `CELL`, (B, 1, h, w)."""
    around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    energy = (around - 4 * images[..., 1:-1, 1:-1]).float().square().mean(1, keepdim=True)
    return torch.sqrt(F.avg_pool2d(energy, CELL, CELL // 2) + FLOOR)


class Crops:
    """What it learns from: crops of the chosen images, flipped as `data.flip` says; a function of (seed, step, row)."""

    def __init__(self, images: Images, chosen: NDArray[np.intp], config: Config) -> None:
        self.images, self.chosen, self.config = images, chosen, config
        patch = config.backbone.patch
        self.side = min(config.first_stage.crop, images.shape[1]) // patch * patch

    def __call__(self, step: int, rows: range) -> Batch:
        settings, patch, side = self.config.first_stage, self.config.backbone.patch, self.side
        flips = FLIPS[self.config.data.flip]
        drawn = rows_of_epochs(step, rows, settings.batch_size, len(self.chosen), settings.seed)
        crops, errors = [], []
        for index, row in zip(drawn, rows, strict=True):
            random = generator(settings.seed, 10, step, row)
            places = (self.images.shape[1] - side) // patch + 1
            top, left = (patch * int(torch.randint(places, (), generator=random)) for _ in range(2))
            flip = flips[int(torch.randint(len(flips), (), generator=random))]
            pixels = self.images[self.chosen[index], top : top + side, left : left + side]
            crops.append(to_tensor(pixels[None])[0].flip(flip))
            shape = (self.config.backbone.latent_channels, side // patch, side // patch)
            errors.append(torch.randn(shape, generator=random))
        return {"images": torch.stack(crops), "error": torch.stack(errors)}


def require_features(config: Config) -> None:
    """Refuse settings that need ImageNet features where these are not installed.

    Raises:
        InputError: so it is.
    """
    needed = {
        "backbone.align": config.backbone.align,
        "first_stage.perceptual": config.first_stage.perceptual if config.backbone.first_stage == "learned" else 0,
    }
    if imagenet.installed(LITE0, PACKAGES[LITE0]) is None:
        for setting, value in needed.items():
            if value:
                raise InputError(
                    f"{setting} = {value:g}: needs ImageNet features, and {LITE0} is not installed; {EXTRA}, or set "
                    f"{setting}=0"
                )


def train_first_stage(
    linear: PatchAutoencoder, images: Images, chosen: NDArray[np.intp], out: Path, config: Config, device: str
) -> ConvAutoencoder:
    """Train a learned first stage from the linear one, or go on with it; a finished one is returned as it is.

    Args:
        linear: fitted to these images.
        images: (N, R, R, 3).
        chosen: those to learn from.
        out: its run folder, with a log and checkpoints.
        config: `data.flip`, `backbone` and `first_stage` are read.
        device: as in `pretrain`.

    Raises:
        InputError: the ImageNet features are not installed, or training has diverged.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    settings, shape = config.first_stage, config.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        vae: ConvAutoencoder = ConvAutoencoder(
            patch=shape.patch,
            latent_channels=shape.latent_channels,
            width=settings.width,
            block_out_channels=linear.config.block_out_channels,
            sample_size=images.shape[1],
        )
    vae.linear.load_state_dict(linear.state_dict())
    module: Any = Reconstruction(vae, settings)
    run(module, Crops(images, chosen, config), settings, out, resume=True, device=device, description="first stage")
    vae.to("cpu").eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / _spread(vae, images, chosen))
    return vae


@torch.no_grad()
def _spread(vae: ConvAutoencoder, images: Images, chosen: NDArray[np.intp], most: int = 256) -> float:
    """Standard deviation of the latents of up to so many images: the diffusion is to see those of unit variance."""
    some = chosen[:: max(1, -(-len(chosen) // most))]
    parts = [vae.encode(to_tensor(images[some[i : i + 16]])).latent_dist.mode() for i in range(0, len(some), 16)]
    return float(torch.cat(parts).std().clamp_min(1e-6))
