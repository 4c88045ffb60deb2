"""Representation alignment (REPA; Yu et al., arXiv 2410.06940): the UNet's middle block learns to see what an ImageNet
network sees in the clean image, which spares it to find that out from noise.

Design note: the features are of EfficientNet-Lite0, of the stride nearest to the middle block's, and each channel is
brought to mean 0 and variance 1 over the training images first: their common mean would else be most of what is
compared. The projection head is trained with the UNet, is part of its checkpoints, and is left behind by the backbone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion.diffusion.latents import LatentData
from siamese_diffusion.imagenet import CHANNELS, ImageNetFeatures

HIDDEN = 256
"""Width of the projection head's two hidden layers."""

MEASURED = 64
"""Images whose features are in memory at a time."""


class Alignment(nn.Module):
    """-1/N sum_n sim(y[n], h_phi(h_t[n])): y the clean image's features at position n, h_t the UNet's hidden state of
    the noisy latents, h_phi the projection head (three layers with SiLU), sim the cosine similarity. Its paper's
    L_REPA.

    Args:
        channels: of the hidden state.
        mean, std: (D,) of the features over the training images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(channels, HIDDEN, 1),
            nn.SiLU(),
            nn.Conv2d(HIDDEN, HIDDEN, 1),
            nn.SiLU(),
            nn.Conv2d(HIDDEN, len(mean), 1),
        )
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        """The loss, between -1 and 1.

        Args:
            hidden: (B, C, h, w).
            features: (B, D, h', w') of the clean images.
        """
        wanted = (features - self.mean) / self.std
        if wanted.shape[2:] != hidden.shape[2:]:
            wanted = F.interpolate(wanted, hidden.shape[2:], mode="bilinear", align_corners=False, antialias=True)
        return -F.cosine_similarity(self.project(hidden).float(), wanted.float(), dim=1).mean()


def stride_near(divisor: int) -> int:
    """The stride of EfficientNet-Lite0's feature map that lies nearest to that of the UNet's middle block, in pixels;
    none finer than 8, since those are of edges."""
    return min(max(divisor, 8), max(CHANNELS))


class CleanFeatures:
    """(B, 3, R, R) in [-1, 1] to the features (B, D, h, w) of one stride."""

    def __init__(self, stride: int, device: torch.device) -> None:
        self.network = ImageNetFeatures((stride,), "backbone.align").to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = self.network(images)
        return maps[0].float()


def alignment_for(channels: int, data: LatentData, seed: int) -> Alignment:
    """An untrained `Alignment` of a hidden state with `data.features`."""
    assert data.features is not None
    mean, std = moments(data.features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Alignment(channels, mean, std)


def moments(features: NDArray[np.float32]) -> Sequence[Tensor]:
    """Mean and standard deviation (D,) of features (N, F, D, h, w) over all but their channels."""
    count, total, square = 0, 0.0, 0.0
    for start in range(0, len(features), MEASURED):
        part = np.asarray(features[start : start + MEASURED], np.float64)
        count += part.size // part.shape[2]
        total, square = total + part.sum((0, 1, 3, 4)), square + (part**2).sum((0, 1, 3, 4))
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 1e-12))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
