"""Scores of masks and maps per image, then of sets and over sets.

`mDice` and `mIoU` cut each map at 0.5. The polyp papers' own figures are there beside them (`pranet_metrics.py`):
`meanDic`, `meanIoU` and the like, which average over thresholds as PraNet's tool does. Never compare one kind with the
other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from siamese_diffusion.segmentation.pranet_metrics import FieldScores, field_scores


class SetScores(NamedTuple):
    """Per-image scores of one set, each (N,) in [0, 1]."""

    dice: Tensor
    iou: Tensor
    field: FieldScores | None = None

    def means(self) -> dict[str, float]:
        """mDice, mIoU, the number of images `count`, and the field's figures where they were taken."""
        figures = {"mDice": float(self.dice.mean()), "mIoU": float(self.iou.mean()), "count": len(self.dice)}
        return figures if self.field is None else figures | self.field.means()

    def columns(self) -> dict[str, list[float]]:
        """Each score by name, one value an image."""
        found = {"dice": self.dice.tolist(), "iou": self.iou.tolist()}
        return found if self.field is None else found | self.field.columns()


def dice(prediction: Tensor, target: Tensor) -> Tensor:
    """2 |P and T| / (|P| + |T|) of bool masks (B, H, W) -> (B,) in [0, 1]; 1 where both are empty."""
    common, total = _areas(prediction, target)
    return torch.where(total == 0, 1.0, 2 * common / total.clamp(min=1))


def iou(prediction: Tensor, target: Tensor) -> Tensor:
    """|P and T| / |P or T| of bool masks (B, H, W) -> (B,) in [0, 1]; 1 where both are empty."""
    common, total = _areas(prediction, target)
    return torch.where(total == 0, 1.0, common / (total - common).clamp(min=1))


def score(probabilities: Tensor, target: Tensor, field: bool = False) -> SetScores:
    """Score probabilities (N, H, W) in [0, 1], cut at 0.5, against bool masks (N, H, W).

    Args:
        field: take the field's scores too, some milliseconds an image.
    """
    prediction = probabilities > 0.5
    return SetScores(
        dice(prediction, target),
        iou(prediction, target),
        field_scores(probabilities.numpy(), target.numpy()) if field else None,
    )


def join(parts: Sequence[SetScores]) -> SetScores:
    """The scores of one set from those of its parts, such as single images of different sizes."""
    fields = [part.field for part in parts if part.field is not None]
    return SetScores(
        torch.cat([part.dice for part in parts]),
        torch.cat([part.iou for part in parts]),
        FieldScores.join(fields) if len(fields) == len(parts) else None,
    )


class Summary(TypedDict):
    """Means of sets and over sets; see `summary`."""

    sets: dict[str, dict[str, float]]
    mean: dict[str, float] | None
    weighted: dict[str, float] | None


def summary(scores: Mapping[str, SetScores]) -> Summary:
    """Means of sets, and over sets.

    Returns:
        `sets`: {set: {mDice, mIoU, count, ...}}; `mean`: each set counts once; `weighted`: each image counts once. The
        last two hold what all sets have, and are None without sets.
    """
    sets = {name: entry.means() for name, entry in scores.items()}
    if not sets:
        return {"sets": {}, "mean": None, "weighted": None}
    names = [
        name for name in next(iter(sets.values())) if name != "count" and all(name in entry for entry in sets.values())
    ]
    total = sum(entry["count"] for entry in sets.values())
    mean = {name: sum(entry[name] for entry in sets.values()) / len(sets) for name in names}
    weighted = {name: sum(entry[name] * entry["count"] for entry in sets.values()) / total for name in names}
    return {"sets": sets, "mean": mean, "weighted": weighted}


def _areas(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape or prediction.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(f"expected two bool masks of one shape, got {prediction.shape} and {target.shape}")
    common = (prediction & target).sum((-2, -1))
    return common.double(), (prediction.sum((-2, -1)) + target.sum((-2, -1))).double()
