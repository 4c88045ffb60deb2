"""The statistics that an encoder expects of its images, as the first layer of a network."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> the same less a mean, over a standard deviation; by default ImageNet's.

    Args:
        mean, std: of the red, green and blue of images in [0, 1].
        kept: whether they are part of the state dict. Those of the published networks are not, so that their weights
            stay interchangeable with those of the same network elsewhere.
    """

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, kept: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=kept)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=kept)

    def forward(self, images: Tensor) -> Tensor:
        return (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
