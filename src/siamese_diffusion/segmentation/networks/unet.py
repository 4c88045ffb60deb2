"""U-Net (Ronneberger et al., arXiv:1505.04597) on a ResNet-18, from segmentation-models-pytorch.

ResNet-18 because it is the encoder that a machine without a GPU carries; 14.3 M parameters.
"""

import segmentation_models_pytorch as smp
from torch import nn

from siamese_diffusion.segmentation.networks.normalize import Normalize


def create(pretrained: bool, encoder: str = "resnet18", classes: int = 1) -> nn.Module:
    """(B, 3, R, R) in [0, 1] -> (B, classes, R, R) logits; `encoder` is any name of segmentation-models-pytorch."""
    weights = "imagenet" if pretrained else None
    return nn.Sequential(Normalize(), smp.Unet(encoder, encoder_weights=weights, in_channels=3, classes=classes))
