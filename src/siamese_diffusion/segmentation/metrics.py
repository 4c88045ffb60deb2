"""Dice and IoU of binary masks, per image, then mDice and mIoU of sets.

Every image counts once: the mean over a set is of per-image scores at threshold 0.5. PraNet's tool, which many polyp
papers use, averages over 256 thresholds of min-max normalised maps instead; its figures differ by a little.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor


class SetScores(NamedTuple):
    """Per-image scores of one set, each (N,) in [0, 1]."""

    dice: Tensor
    iou: Tensor

    def means(self) -> dict[str, float]:
        """mDice, mIoU and the number of images."""
        return {"mDice": float(self.dice.mean()), "mIoU": float(self.iou.mean()), "count": len(self.dice)}


def dice(prediction: Tensor, target: Tensor) -> Tensor:
    """2 |P and T| / (|P| + |T|) of bool masks (B, H, W) -> (B,) in [0, 1]; 1 where both are empty."""
    common, total = _areas(prediction, target)
    return torch.where(total == 0, 1.0, 2 * common / total.clamp(min=1))


def iou(prediction: Tensor, target: Tensor) -> Tensor:
    """|P and T| / |P or T| of bool masks (B, H, W) -> (B,) in [0, 1]; 1 where both are empty."""
    common, total = _areas(prediction, target)
    return torch.where(total == 0, 1.0, common / (total - common).clamp(min=1))


def score(probabilities: Tensor, target: Tensor) -> SetScores:
    """Score probabilities (N, H, W) in [0, 1], cut at 0.5, against bool masks (N, H, W)."""
    prediction = probabilities > 0.5
    return SetScores(dice(prediction, target), iou(prediction, target))


class Summary(TypedDict):
    """Means of sets and over sets; see `summary`."""

    sets: dict[str, dict[str, float]]
    mean: dict[str, float] | None
    weighted: dict[str, float] | None


def summary(scores: Mapping[str, SetScores]) -> Summary:
    """Means of sets, and over sets.

    Returns:
        `sets`: {set: {mDice, mIoU, count}}; `mean`: each set counts once; `weighted`: each image counts once. The last
        two are None without sets.
    """
    sets = {name: entry.means() for name, entry in scores.items()}
    if not sets:
        return {"sets": {}, "mean": None, "weighted": None}
    names = ("mDice", "mIoU")
    total = sum(entry["count"] for entry in sets.values())
    mean = {name: sum(entry[name] for entry in sets.values()) / len(sets) for name in names}
    weighted = {name: sum(entry[name] * entry["count"] for entry in sets.values()) / total for name in names}
    return {"sets": sets, "mean": mean, "weighted": weighted}


def _areas(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape or prediction.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(f"expected two bool masks of one shape, got {prediction.shape} and {target.shape}")
    common = (prediction & target).sum((-2, -1))
    return common.double(), (prediction.sum((-2, -1)) + target.sum((-2, -1))).double()
