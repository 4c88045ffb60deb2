"""Polyp-PVT (Dong et al., CAAI AIR 2023, arXiv:2108.06932) on timm's PVTv2-B2; 25.1 M parameters.

The names of its parts are the authors', so that their weights load (`published.py`).
"""

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from siamese_diffusion.segmentation.networks import pyramid
from siamese_diffusion.segmentation.networks.blocks import ConvNorm, Outputs, height_width, resize
from siamese_diffusion.segmentation.networks.normalize import Normalize

WIDTH = 32
STATES = 16
ANCHORS = 4
"""Per side of the grid of anchors; one more ring is pooled and cut off."""


class PolypPVT(nn.Module):
    """(B, 3, R, R) in [0, 1] -> (B, 1, R, R) logits, the sum of two supervised maps."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.backbone = pyramid.pvt_v2_b2(pretrained)
        c1, c2, c3, c4 = pyramid.CHANNELS
        self.ca = ChannelAttention(c1)
        self.sa = SpatialAttention()
        self.Translayer2_0 = ConvNorm(c1, WIDTH, 1)
        self.Translayer2_1 = ConvNorm(c2, WIDTH, 1)
        self.Translayer3_1 = ConvNorm(c3, WIDTH, 1)
        self.Translayer4_1 = ConvNorm(c4, WIDTH, 1)
        self.CFM = CascadedFusion()
        self.SAM = SimilarityAggregation()
        self.out_SAM = nn.Conv2d(WIDTH, 1, 1)
        self.out_CFM = nn.Conv2d(WIDTH, 1, 1)

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> logits from the cascaded fusion and from the aggregation, (B, 1, H, W)
        each."""
        f1, f2, f3, f4 = pyramid.features(self.backbone, images)
        detail = self.ca(f1) * f1
        detail = self.sa(detail) * detail
        fused = self.CFM(self.Translayer4_1(f4), self.Translayer3_1(f3), self.Translayer2_1(f2))  # (B, 32, H/8, W/8)
        reduced = self.Translayer2_0(detail)
        half = (reduced.shape[-2] // 2, reduced.shape[-1] // 2)
        joined = self.SAM(fused, resize(reduced, half, align_corners=True))
        size = height_width(images)
        return (
            resize(self.out_CFM(fused), size, align_corners=False),
            resize(self.out_SAM(joined), size, align_corners=False),
        )

    def outputs(self, images: Tensor) -> Outputs:
        return Outputs(list(self.pair(self.normalize(images))))

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.pair(self.normalize(images))
        return first + second


class ChannelAttention(nn.Module):
    """(B, C, h, w) -> weights (B, C, 1, 1) in (0, 1), from the mean and the maximum of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.fc2(self.fc1(F.adaptive_avg_pool2d(x, 1)).relu())
        highest = self.fc2(self.fc1(F.adaptive_max_pool2d(x, 1)).relu())
        return torch.sigmoid(mean + highest)


class SpatialAttention(nn.Module):
    """(B, C, h, w) -> weights (B, 1, h, w) in (0, 1), from the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv1(cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class CascadedFusion(nn.Module):
    """The reduced features at 1/32, 1/16 and 1/8 of the size -> (B, 32, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_upsample1 = ConvNorm(WIDTH, WIDTH, 3)
        self.conv_upsample2 = ConvNorm(WIDTH, WIDTH, 3)
        self.conv_upsample3 = ConvNorm(WIDTH, WIDTH, 3)
        self.conv_upsample4 = ConvNorm(WIDTH, WIDTH, 3)
        self.conv_upsample5 = ConvNorm(2 * WIDTH, 2 * WIDTH, 3)
        self.conv_concat2 = ConvNorm(2 * WIDTH, 2 * WIDTH, 3)
        self.conv_concat3 = ConvNorm(3 * WIDTH, 3 * WIDTH, 3)
        self.conv4 = ConvNorm(3 * WIDTH, WIDTH, 3)

    def forward(self, t4: Tensor, t3: Tensor, t2: Tensor) -> Tensor:
        up4, up3 = _double(t4), _double(t3)
        a = self.conv_upsample1(up4) * t3
        b = self.conv_upsample2(_double(up4)) * self.conv_upsample3(up3) * t2  # two steps of 2, not one of 4
        a = self.conv_concat2(cat([a, self.conv_upsample4(up4)], 1))
        b = self.conv_concat3(cat([b, self.conv_upsample5(_double(a))], 1))
        fused: Tensor = self.conv4(b)
        return fused


class SimilarityAggregation(nn.Module):
    """Fused features (B, 32, h, w) and the detail (B, 32, h, w) that guides them -> (B, 32, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_state = nn.Conv2d(WIDTH, STATES, 1)
        self.conv_proj = nn.Conv2d(WIDTH, STATES, 1)
        self.gcn = GraphConvolution()
        self.conv_extend = nn.Conv2d(STATES, WIDTH, 1, bias=False)

    def forward(self, fused: Tensor, detail: Tensor) -> Tensor:
        size = height_width(fused)
        guide = F.interpolate(detail, size=size, mode="nearest").softmax(1)[:, 1:2]  # the second of 32 channels only
        states = self.conv_state(fused).flatten(2)  # (B, 16, N)
        projected = self.conv_proj(fused)
        pooled = F.adaptive_avg_pool2d(projected * guide, ANCHORS + 2)
        anchors = pooled[:, :, 1:-1, 1:-1].flatten(2)  # (B, 16, 16): states x anchors
        assigned = (anchors.transpose(1, 2) @ projected.flatten(2)).softmax(1)  # (B, 16 anchors, N)
        related = self.gcn(states @ assigned.transpose(1, 2))  # (B, 16 states, 16 anchors)
        joined: Tensor = fused + self.conv_extend((related @ assigned).unflatten(2, size))
        return joined


class GraphConvolution(nn.Module):
    """(B, states, anchors) -> the same: a mixing of anchors, then of states."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(ANCHORS**2, ANCHORS**2, 1)
        self.conv2 = nn.Conv1d(STATES, STATES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.conv1(x.transpose(1, 2)).transpose(1, 2)
        return F.relu(self.conv2(mixed - x))


def _double(x: Tensor) -> Tensor:
    return resize(x, (2 * x.shape[-2], 2 * x.shape[-1]), align_corners=True)


def create(pretrained: bool) -> nn.Module:
    return PolypPVT(pretrained)
