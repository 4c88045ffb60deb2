"""ImageNet statistics, as the first layer of a network."""

from typing import cast

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> the same less ImageNet's mean, over its standard deviation.

    Not part of the state dict: weights stay interchangeable with those of the same network elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
