"""The scores of the polyp papers: PraNet's evaluation (Fan et al., arXiv:2006.11392), which SANet, Polyp-PVT and CTNet
use.

A map is taken as its 8-bit picture, stretched so that its lowest value is 0 and its highest 1, and cut at 256
thresholds. Dice and IoU at a threshold without a hit are 0, also for an empty mask. S-measure (Fan et al.,
arXiv:1708.00786), weighted F-measure (Margolin et al., CVPR 2014), E-measure (Fan et al., arXiv:1805.10421) and MAE
come from py-sod-metrics.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FIGURES = ("meanDic", "meanIoU", "wFm", "Sm", "meanEm", "MAE", "maxDic", "maxIoU", "maxEm")
"""What `FieldScores.means` has of a set."""


class FieldScores(NamedTuple):
    """Scores of one set, (N,) each; curves over thresholds are kept as what is asked of them, their mean for each image
    and their sum over images, so that an image costs 48 bytes and not 6 KB."""

    dice: Floats  # mean over the thresholds
    iou: Floats  # mean over the thresholds
    alignment: Floats  # E-measure, mean over the thresholds
    weighted: Floats  # weighted F-measure
    structure: Floats  # S-measure
    error: Floats  # mean absolute error
    curves: Floats  # (3, 256) sums over the images: Dice, IoU, E-measure at the thresholds from 1 down to 0

    def columns(self) -> dict[str, list[float]]:
        """One value an image."""
        return {
            "meanDic": self.dice.tolist(),
            "meanIoU": self.iou.tolist(),
            "wFm": self.weighted.tolist(),
            "Sm": self.structure.tolist(),
            "meanEm": self.alignment.tolist(),
            "MAE": self.error.tolist(),
        }

    def means(self) -> dict[str, float]:
        """`columns` averaged over the images; `maxDic`, `maxIoU`, `maxEm`: the best threshold of the averaged
        curves."""
        best = (self.curves / len(self.dice)).max(1)
        return {
            **{name: float(np.mean(values)) for name, values in self.columns().items()},
            **dict(zip(("maxDic", "maxIoU", "maxEm"), best.tolist(), strict=True)),
        }

    @staticmethod
    def join(parts: "Sequence[FieldScores]") -> "FieldScores":
        images = [np.concatenate([part[place] for part in parts]) for place in range(6)]
        return FieldScores._make([*images, np.sum([part.curves for part in parts], axis=0)])


def field_scores(probabilities: NDArray[np.floating[Any]], masks: NDArray[np.bool_]) -> FieldScores:
    """Score maps (N, H, W) in [0, 1] against bool masks (N, H, W)."""
    from py_sod_metrics import MAE, Emeasure, WeightedFmeasure

    pictures = np.rint(probabilities * 255.0).astype(np.uint8)
    found = []
    for picture, mask in zip(pictures, masks, strict=True):
        stretched = stretch(picture)
        metrics = {"em": Emeasure(), "wfm": WeightedFmeasure(), "sm": _structure(), "mae": MAE()}
        results = {}
        for name, metric in metrics.items():
            metric.step(stretched, mask, normalize=False)
            results[name] = metric.get_results()[name]
        found.append((*sweep(picture, mask), results["em"]["curve"], results["wfm"], results["sm"], results["mae"]))
    dice, iou, alignment, *single = (np.array(each, np.float64) for each in zip(*found, strict=True))
    curves = np.stack([dice, iou, alignment])  # (3, N, 256)
    return FieldScores._make([*curves.mean(2), *single, curves.sum(1)])


def _structure() -> Any:
    """The library's S-measure, but that a quarter without pixels, whose weight is 0, counts 0 and not NaN."""
    from py_sod_metrics import Smeasure

    metric = Smeasure()
    plain = metric.ssim
    metric.ssim = lambda part, mask: plain(part, mask) if part.size else 0.0
    return metric


def stretch(picture: NDArray[np.uint8]) -> Floats:
    """(H, W) -> the same in [0, 1], the lowest value at 0 and the highest at 1; a constant map is only divided by
    255."""
    low, high = int(picture.min()), int(picture.max())
    return (picture - float(low)) / (high - low) if high > low else picture / 255.0


def sweep(picture: NDArray[np.uint8], mask: NDArray[np.bool_], stretched: bool = True) -> tuple[Floats, Floats]:
    """Dice and IoU of a map (H, W) at the thresholds 255/255, 254/255 ... 0, (256,) each.

    A value passes a threshold that it equals; whole numbers decide, for among rounded fractions some of the equal ones
    fail.

    Args:
        stretched: stretch the map first, as PraNet's tool does; UACANet's takes it as it is.
    """
    values = picture.astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if stretched and high > low:
        values = 255 * (values - low) // (high - low)  # how many thresholds k/255 above 0 the value passes
    inside = np.bincount(values[mask], minlength=256)[::-1].cumsum().astype(np.float64)
    outside = np.bincount(values[~mask], minlength=256)[::-1].cumsum()
    total = inside + outside + mask.sum()
    hit = inside > 0
    return (
        np.where(hit, 2 * inside / np.maximum(total, 1), 0.0),
        np.where(hit, inside / np.maximum(total - inside, 1), 0.0),
    )
