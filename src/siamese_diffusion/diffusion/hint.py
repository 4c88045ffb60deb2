"""Dense Hint Input (DHI): turns a hint image into features at latent resolution for the ControlNet.

Design note: there is no normalisation outside the patch merges, and the last convolution starts at zero, so that a
new ControlNet leaves the backbone's prediction as it was. Source: arXiv 2505.06068, section 3.3.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity; SiLU after the first and after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.conv2(F.silu(self.conv1(x))))


class PatchMerge(nn.Module):
    """(B, C, H, W) to (B, 2C, H/2, W/2): the pixels of each 2x2 cell side by side, normalised, projected."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        cells = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        x = self.reduction(self.norm(torch.cat(cells, dim=-1)))  # (B, H/2, W/2, 2C)
        return x.permute(0, 3, 1, 2)


class DenseHintInput(nn.Module):
    """Hint image to ControlNet features.

    Args:
        out_channels: width of the ControlNet's first level.
        factor: down-sampling factor of the first stage, a power of two; one patch merge per factor of 2.
        in_channels: channels of the hint.
        channels: features after the first and the second residual block; each merge doubles the last.
    """

    def __init__(
        self, out_channels: int, factor: int = 8, in_channels: int = 3, channels: tuple[int, int] = (16, 32)
    ) -> None:
        super().__init__()
        first, width = channels
        stages: list[nn.Module] = [
            nn.Conv2d(in_channels, first, 3, padding=1),
            Residual(first),
            nn.Conv2d(first, width, 3, padding=1),
            Residual(width),
        ]
        for _ in range(factor.bit_length() - 1):
            stages += [PatchMerge(width), nn.Conv2d(2 * width, 2 * width, 3, padding=1), Residual(2 * width)]
            width *= 2
        self.features = nn.Sequential(*stages)
        self.project = nn.Conv2d(width, out_channels, 3, padding=1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, hint: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, out_channels, H/factor, W/factor)."""
        x: Tensor = self.project(self.features(hint))
        return x
