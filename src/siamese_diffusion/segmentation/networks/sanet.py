"""SANet, the Shallow Attention Network (Wei et al., MICCAI 2021, arXiv:2108.00882), on timm's Res2Net-50; 23.9 M
parameters.

timm's `res2net50d` is Res2Net-50 v1b 26w x 4s. The parameter names are the authors'.
"""

import timm
from torch import Tensor, cat, nn

from siamese_diffusion.segmentation.networks.blocks import height_width, resize
from siamese_diffusion.segmentation.networks.normalize import Normalize

WIDTH = 64


class SANet(nn.Module):
    """(B, 3, R, R) in [0, 1] -> (B, 1, R, R) logits, upsampled from the eighth of the size that the head works at."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.bkbone = timm.create_model(
            "res2net50d", pretrained=pretrained, features_only=True, out_indices=(1, 2, 3, 4)
        )
        self.linear5 = _reduce(2048)
        self.linear4 = _reduce(1024)
        self.linear3 = _reduce(512)
        self.predict = nn.Conv2d(3 * WIDTH, 1, 1)
        for layer in (self.linear5, self.linear4, self.linear3, self.predict):
            for module in layer.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def coarse(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, 1, H/8, W/8)."""
        _, f3, f4, f5 = self.bkbone(images)
        a3, a4, a5 = self.linear3(f3), self.linear4(f4), self.linear5(f5)
        a4, a5 = (resize(a, height_width(a3), align_corners=True) for a in (a4, a5))
        logits: Tensor = self.predict(cat([a5, a4 * a5, a3 * a4 * a5], 1))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return resize(self.coarse(self.normalize(images)), height_width(images), align_corners=True)


def _reduce(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))


def create(pretrained: bool) -> nn.Module:
    return SANet(pretrained)
