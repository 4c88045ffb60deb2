"""SegFormer-B0 (Xie et al., arXiv:2105.15203), from transformers; 3.7 M parameters.

The ImageNet weights `nvidia/mit-b0` are under the NVIDIA Source Code License: non-commercial use only. Without them
(`pretrained` false) nothing of NVIDIA's is used.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from siamese_diffusion.segmentation.networks.normalize import Normalize


class SegFormer(nn.Module):
    """(B, 3, R, R) in [0, 1] -> (B, classes, R, R) logits, upsampled from the quarter size that the head works at."""

    def __init__(self, pretrained: bool, classes: int = 1) -> None:
        super().__init__()
        self.normalize = Normalize()
        if pretrained:
            self.model = SegformerForSemanticSegmentation.from_pretrained("nvidia/mit-b0", num_labels=classes)
        else:
            self.model = SegformerForSemanticSegmentation(
                SegformerConfig(num_labels=classes)
            )  # its defaults are MiT-B0

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(self.normalize(images)).logits  # (B, classes, R/4, R/4)
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def create(pretrained: bool, classes: int = 1) -> nn.Module:
    return SegFormer(pretrained, classes)
