"""Scores of masks and maps per image, then of sets and over sets.

`mDice` and `mIoU` cut each map at 0.5. The polyp papers' own figures are there beside them (`pranet_metrics.py`):
`meanDic`, `meanIoU` and the like, which average over thresholds as PraNet's tool does and take healthy images in as it
does. Never compare one kind with the other.

Healthy images, whose mask is empty, have no overlap to measure: they are counted apart, by what is marked in them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from siamese_diffusion.segmentation.figures import COUNTS, HEALTHY
from siamese_diffusion.segmentation.pranet_metrics import FieldScores, field_scores


class ClassScores(NamedTuple):
    """Scores of each class in each image, (N, K) in [0, 1]; NaN where a class is neither there nor seen.

    So nnU-Net counts too (Isensee et al., 2021): a class that is not there is left out where nothing is seen of it, and
    is 0 where something is.
    """

    dice: Tensor
    iou: Tensor
    names: Sequence[str]

    def means(self) -> dict[str, float]:
        """`mDice` and `mIoU`, means over the classes that are in any image, then those of each, "mDice NAME"."""
        found: dict[str, float] = {}
        for kind, values in (("mDice", self.dice), ("mIoU", self.iou)):
            each = values.nanmean(0)
            if not bool(each.isnan().all()):
                found[kind] = float(each.nanmean())
            named = zip(self.names, each.tolist(), strict=True)
            found |= {f"{kind} {name}": value for name, value in named if value == value}
        return found


class SetScores(NamedTuple):
    """Per-image scores of one set, each (N,) in [0, 1]; of several classes the mean over those of an image."""

    dice: Tensor
    iou: Tensor
    field: FieldScores | None = None
    lesion: Tensor | None = None
    """(N,) bool: the image has a lesion; None: all have."""
    marked: Tensor | None = None
    """(N,) share of the image that is marked; None where `lesion` is."""
    classes: ClassScores | None = None
    """With several classes."""

    def means(self) -> dict[str, float]:
        """The figures of the set.

        `mDice` and `mIoU` over the images with a lesion, where there are any, or of several classes see
        `ClassScores.means`; `count`, of all images; where some are
        healthy, `healthy`, their number, `specificity`, the share of them in which nothing is marked, and
        `healthy_area`, the mean share of them that is; and the field's figures, over all, where they were taken.
        """
        lesion = self.dice.new_ones(len(self.dice), dtype=torch.bool) if self.lesion is None else self.lesion
        figures: dict[str, float] = {}
        if self.classes is not None:
            figures |= self.classes.means()
        elif bool(lesion.any()):
            figures |= {"mDice": float(self.dice[lesion].mean()), "mIoU": float(self.iou[lesion].mean())}
        figures["count"] = len(self.dice)
        if self.marked is not None and not bool(lesion.all()):
            marked = self.marked[~lesion]
            figures["healthy"] = len(marked)
            figures |= {"specificity": float((marked == 0).double().mean()), "healthy_area": float(marked.mean())}
        return figures if self.field is None else figures | self.field.means()

    def columns(self) -> dict[str, list[float]]:
        """Each score by name, one value an image; where some are healthy, `lesion` (1 or 0) and `marked` too."""
        found = {"dice": self.dice.tolist(), "iou": self.iou.tolist()}
        if self.lesion is not None and self.marked is not None and not bool(self.lesion.all()):
            found |= {"lesion": self.lesion.double().tolist(), "marked": self.marked.tolist()}
        if self.classes is not None:
            found |= {f"dice {name}": self.classes.dice[:, i].tolist() for i, name in enumerate(self.classes.names)}
        return found if self.field is None else found | self.field.columns()


def dice(prediction: Tensor, target: Tensor) -> Tensor:
    """2 |P and T| / (|P| + |T|) of bool masks (B, H, W) -> (B,) in [0, 1]; 1 where both are empty."""
    common, total = _areas(prediction, target)
    return torch.where(total == 0, 1.0, 2 * common / total.clamp(min=1))


def iou(prediction: Tensor, target: Tensor) -> Tensor:
    """|P and T| / |P or T| of bool masks (B, H, W) -> (B,) in [0, 1]; 1 where both are empty."""
    common, total = _areas(prediction, target)
    return torch.where(total == 0, 1.0, common / (total - common).clamp(min=1))


def cut(probabilities: Tensor) -> Tensor:
    """The masks of probabilities: (N, H, W) cut at 0.5 to bool (N, H, W), or of several classes, the background first,
    (N, K + 1, H, W) to the likeliest label uint8 (N, H, W)."""
    return probabilities > 0.5 if probabilities.ndim == 3 else probabilities.argmax(1).to(torch.uint8)


def of_any(probabilities: Tensor) -> Tensor:
    """Probabilities (N, H, W) that a pixel is of any class."""
    return probabilities if probabilities.ndim == 3 else 1 - probabilities[:, 0]


def score(probabilities: Tensor, target: Tensor, field: bool = False, names: Sequence[str] = ()) -> SetScores:
    """Score probabilities, as `cut` takes them, against masks (N, H, W), bool or labels.

    Args:
        field: take the field's scores too, some milliseconds an image; of one class alone.
        names: of several classes.
    """
    if names:
        return score_labels(cut(probabilities), target, names)
    prediction = probabilities > 0.5
    return SetScores(
        dice(prediction, target),
        iou(prediction, target),
        field_scores(probabilities.numpy(), target.numpy()) if field else None,
        target.flatten(1).any(1),
        prediction.flatten(1).double().mean(1),
    )


def score_labels(seen: Tensor, target: Tensor, names: Sequence[str]) -> SetScores:
    """Score label maps uint8 (N, H, W) of several classes against others."""
    found: dict[str, list[Tensor]] = {"dice": [], "iou": []}
    for label in range(1, len(names) + 1):
        both = seen == label, target == label
        nowhere = ~(both[0] | both[1]).flatten(1).any(1)
        for name, measure in (("dice", dice), ("iou", iou)):
            found[name].append(measure(*both).masked_fill(nowhere, torch.nan))
    classes = ClassScores(torch.stack(found["dice"], 1), torch.stack(found["iou"], 1), names)
    return SetScores(
        classes.dice.nanmean(1).nan_to_num(1.0),
        classes.iou.nanmean(1).nan_to_num(1.0),
        None,
        (target != 0).flatten(1).any(1),
        (seen != 0).flatten(1).double().mean(1),
        classes,
    )


def join(parts: Sequence[SetScores]) -> SetScores:
    """The scores of one set from those of its parts, such as single images of different sizes."""
    fields = [part.field for part in parts if part.field is not None]
    return SetScores(
        torch.cat([part.dice for part in parts]),
        torch.cat([part.iou for part in parts]),
        FieldScores.join(fields) if len(fields) == len(parts) else None,
        _joined([part.lesion for part in parts]),
        _joined([part.marked for part in parts]),
        _joined_classes([part.classes for part in parts if part.classes is not None]),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known and len(known) == len(parts) else None


def _joined_classes(parts: Sequence[ClassScores]) -> ClassScores | None:
    if not parts:
        return None
    dice_, iou_ = (torch.cat([getattr(part, kind) for part in parts]) for kind in ("dice", "iou"))
    return ClassScores(dice_, iou_, parts[0].names)


class Summary(TypedDict):
    """Means of sets and over sets; see `summary`."""

    sets: dict[str, dict[str, float]]
    mean: dict[str, float] | None
    weighted: dict[str, float] | None


def summary(scores: Mapping[str, SetScores]) -> Summary:
    """Means of sets, and over sets.

    Returns:
        `sets`: {set: {mDice, mIoU, count, ...}}; `mean`: each set counts once; `weighted`: each image counts once. The
        last two hold what all sets have, and the figures of images with a lesion, or without, over the sets that have
        such images; they are None without sets.
    """
    sets = {name: entry.means() for name, entry in scores.items()}
    if not sets:
        return {"sets": {}, "mean": None, "weighted": None}
    mean, weighted = over(list(sets.values()))
    return {"sets": sets, "mean": mean, "weighted": weighted}


def over(sets: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Of the figures of several sets, as `SetScores.means` gives them, `mean` and `weighted` as in `summary`."""
    mean, weighted = {}, {}
    for name in dict.fromkeys(name for entry in sets for name in entry):
        having = [entry for entry in sets if name in entry]
        if name in COUNTS or (len(having) < len(sets) and name not in WEIGHTS):
            continue
        counts = [WEIGHTS.get(name, _all)(entry) for entry in having]
        mean[name] = sum(entry[name] for entry in having) / len(having)
        weighted[name] = sum(entry[name] * count for entry, count in zip(having, counts, strict=True)) / sum(counts)
    return mean, weighted


def _all(entry: Mapping[str, float]) -> float:
    return entry["count"]


def _with_lesion(entry: Mapping[str, float]) -> float:
    return entry["count"] - entry.get("healthy", 0)


def _healthy(entry: Mapping[str, float]) -> float:
    return entry["healthy"]


WEIGHTS = {"mDice": _with_lesion, "mIoU": _with_lesion, **dict.fromkeys(HEALTHY, _healthy)}
"""Figures of some of the images only, and of how many; over sets, those that have such images count."""


def _areas(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape or prediction.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(f"expected two bool masks of one shape, got {prediction.shape} and {target.shape}")
    common = (prediction & target).sum((-2, -1))
    return common.double(), (prediction.sum((-2, -1)) + target.sum((-2, -1))).double()
