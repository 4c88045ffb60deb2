"""Several networks as one: the mean of their probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALLEST = 1e-6
"""Probabilities are kept so far from 0 and 1, whose logits are infinite."""


class Ensemble(nn.Module):
    """Networks that each see the images, such as those of the folds of a cross-validation.

    The mean is of probabilities and not of logits, so that one network that is sure of itself does not outvote the
    others (what `inference.probabilities` averages too, where each map is corrected first).

    Args:
        members: (B, 3, R, R) in [0, 1] -> logits (B, 1, R, R), or of several classes (B, K + 1, R, R), each.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """`images` (B, 3, R, R) in [0, 1] -> logits, as a member's, of the mean probability."""
        every = torch.stack([member(images).float() for member in self.members])
        if every.shape[2] > 1:
            return every.softmax(2).mean(0).clamp(min=SMALLEST).log()
        return torch.logit(every.sigmoid().mean(0), eps=SMALLEST)
