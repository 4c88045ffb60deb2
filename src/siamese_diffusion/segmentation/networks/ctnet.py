"""CTNet, the Contrastive Transformer Network (Xiao et al., IEEE Trans. Cybernetics 2024), on a MiT-B3 from timm; 44.3 M
parameters.

The names of its parts are the authors', so that their weights load (`published.py`).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion.segmentation.networks import pyramid
from siamese_diffusion.segmentation.networks.blocks import ConvNorm, Outputs, height_width, resize
from siamese_diffusion.segmentation.networks.normalize import Normalize

WIDTH = 32


class CTNet(nn.Module):
    """(B, 3, R, R) in [0, 1] -> (B, 1, R, R) logits; for its loss also an embedding of every fourth pixel."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.backbone = pyramid.mit_b3(pretrained)
        c1, c2, c3, c4 = pyramid.CHANNELS
        self.Translayer1 = ConvNorm(c1, WIDTH, 1)
        self.Translayer2 = ConvNorm(c2, WIDTH, 1)
        self.Translayer3 = ConvNorm(c3, WIDTH, 1)
        self.Translayer4 = ConvNorm(c4, WIDTH, 1)
        self.contrasthead = ContrastHead()
        self.Smim = ScaleInteraction()
        self.cim = CollaborativeIntegration()
        self.uper = _up()
        self.prediction = nn.Sequential(ConvNorm(WIDTH, WIDTH, 3), nn.Conv2d(WIDTH, 1, 1))

    def decode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> logits (B, 1, H, W) and the deepest reduced features (B, 32, H/32,
        W/32)."""
        f1, f2, f3, f4 = pyramid.features(self.backbone, images)
        x1, x2, x3, x4 = self.Translayer1(f1), self.Translayer2(f2), self.Translayer3(f3), self.Translayer4(f4)
        high, middle, low = self.Smim(x4), self.Smim(x3), self.Smim(x2)  # one module: its statistics see all three
        coarse = self.prediction(x1 + self.uper(self.cim(high, middle, low)))  # (B, 1, H/4, W/4)
        return resize(coarse, height_width(images), align_corners=False), x4

    def outputs(self, images: Tensor) -> Outputs:
        logits, deepest = self.decode(self.normalize(images))
        return Outputs([logits], self.contrasthead(deepest))

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.normalize(images))[0]


class ContrastHead(nn.Module):
    """(B, 32, h, w) -> embeddings (B, 32, 8 h, 8 w) of unit length."""

    def __init__(self) -> None:
        super().__init__()
        doubling = [layer for _ in range(3) for layer in (_transposed(), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))]
        self.pro = nn.Sequential(*doubling, nn.Conv2d(WIDTH, WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.pro(x), dim=1)


class ScaleInteraction(nn.Module):
    """(B, 32, h, w) -> the same: full and half size, twice exchanged, added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.h2l_0, self.h2h_0, self.h2l_1, self.h2h_1 = (_conv() for _ in range(4))
        self.l2h_1, self.l2l_1, self.h2h_2, self.l2h_2 = (_conv() for _ in range(4))
        self.bnl_0, self.bnh_0, self.bnl_1, self.bnh_1, self.bnh_2 = (nn.BatchNorm2d(WIDTH) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        size = height_width(x)
        high = self.bnh_0(self.h2h_0(x)).relu()
        low = self.bnl_0(self.h2l_0(_half(x))).relu()
        exchanged = self.h2h_1(high) + self.l2h_1(resize(low, size, align_corners=False))
        low = self.bnl_1(self.l2l_1(low) + self.h2l_1(_half(high))).relu()
        high = self.bnh_1(exchanged).relu()
        joined = self.h2h_2(high) + self.l2h_2(resize(low, size, align_corners=False))
        result: Tensor = self.bnh_2(joined).relu() + x
        return result


class CollaborativeIntegration(nn.Module):
    """Features at 1/32, 1/16 and 1/8 of the size -> (B, 32, H/8, W/8); one block doubles all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.uper = _up()

    def forward(self, high: Tensor, middle: Tensor, low: Tensor) -> Tensor:
        from_high, from_middle = self.uper(high), self.uper(middle)
        middle = from_high * middle + middle
        low = from_middle * low + low
        result: Tensor = self.uper(middle) * low + low
        return result


def _conv() -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, padding=1)


def _transposed() -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1)


def _up() -> nn.Sequential:
    return nn.Sequential(_transposed(), ConvNorm(WIDTH, WIDTH, 3))


def _half(x: Tensor) -> Tensor:
    single = bool(min(height_width(x)) < 2)  # a single pixel, of a 32-pixel image, has no half
    return F.avg_pool2d(x, 2, ceil_mode=single)


def create(pretrained: bool) -> nn.Module:
    return CTNet(pretrained)
