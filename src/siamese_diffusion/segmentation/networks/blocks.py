"""What several networks are built of, and what they give to their losses."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F


class Outputs(NamedTuple):
    """What a network gives to its loss."""

    maps: list[Tensor]
    """Logits (B, 1, R, R), one for each supervised output."""
    embedding: Tensor | None = None
    """Pixel embeddings (B, C, R/4, R/4) of unit length, of the one network that has them."""


class ConvNorm(nn.Module):
    """Convolution k x k without bias, then BatchNorm, and no activation (the authors' own one and never call it)."""

    def __init__(self, inside: int, outside: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


def resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear resampling (B, C, h, w) -> (B, C, *size)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def height_width(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
