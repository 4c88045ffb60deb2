"""The plain U-Net of Awesome-U-Net (NITR098), which the paper's authors named for their ISIC table; 1.9 M parameters.

Four levels of 32 to 256 channels, no normalisation layers, no ImageNet weights. It tells two classes apart; the logit
of the mask is the difference of theirs.
"""

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from siamese_diffusion.errors import InputError

CHANNELS = (32, 64, 128, 256)


class PlainUNet(nn.Module):
    """(B, 3, R, R) in [0, 1] -> (B, 1, R, R) logits, R a multiple of 8; each image is first stretched to fill [0,
    1]."""

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4 = CHANNELS
        self.en_1 = Double(3, c1)
        self.en_2 = Double(c1, c2)
        self.en_3 = Double(c2, c3)
        self.en_4 = Double(c3, c4)
        self.de_1 = Double(c4 + c3, c3)
        self.de_2 = Double(c3 + c2, c2)
        self.de_3 = Double(c2 + c1, c1)
        self.de_4 = nn.Conv2d(c1, 2, 1)

    def classes(self, images: Tensor) -> Tensor:
        """Stretched images (B, 3, H, W) -> logits of background and mask (B, 2, H, W)."""
        e1 = self.en_1(images)
        e2 = self.en_2(F.max_pool2d(e1, 2))
        e3 = self.en_3(F.max_pool2d(e2, 2))
        x = self.en_4(F.max_pool2d(e3, 2))
        for level, skip in ((self.de_1, e3), (self.de_2, e2), (self.de_3, e1)):
            x = level(cat([F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), skip], 1))
        logits: Tensor = self.de_4(x)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        logits = self.classes(stretch(images))
        return logits[:, 1:] - logits[:, :1]  # its sigmoid is the softmax over the two classes


class Double(nn.Module):
    """Two convolutions 3 x 3, each with a ReLU."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.step = nn.Sequential(
            nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.Conv2d(outside, outside, 3, padding=1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.step(x)
        return y


def stretch(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> the same, each image's lowest value at 0 and its highest at 1; an image of one value becomes
    0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / torch.where(high > low, high - low, 1.0)


def create(pretrained: bool) -> nn.Module:
    if pretrained:
        raise InputError("segment.pretrained: unet_plain has no ImageNet weights; set segment.pretrained=false")
    return PlainUNet()
