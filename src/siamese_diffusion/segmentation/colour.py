"""SANet's two operations on colours and maps (Wei et al., arXiv:2108.00882): colour exchange and probability
correction."""

from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Overflow = Literal["wrap", "clip"]


class Statistics(NamedTuple):
    """Of the channels of an image in 8-bit Lab, each (3,)."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def statistics(image: NDArray[np.uint8]) -> Statistics:
    """Of an RGB image (H, W, 3)."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float64)
    return Statistics(lab.mean(0), lab.std(0))


def exchange(image: NDArray[np.uint8], donor: Statistics, overflow: Overflow = "wrap") -> NDArray[np.uint8]:
    """Give an RGB image (H, W, 3) the mean and standard deviation that each Lab channel of another image has.

    Args:
        image: RGB.
        donor: `statistics` of the other image.
        overflow: what becomes of values outside 0 to 255: "wrap" counts modulo 256, as the authors' code does (bright
            spots turn dark), "clip" takes the nearest. A channel of one value only takes the donor's mean.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)
    own = statistics(image)
    moved = (lab - own.mean) / np.where(own.deviation > 0, own.deviation, 1) * donor.deviation + donor.mean
    whole = np.trunc(moved).astype(np.int64)
    values = whole & 255 if overflow == "wrap" else whole.clip(0, 255)
    return np.asarray(cv2.cvtColor(values.astype(np.uint8), cv2.COLOR_LAB2RGB), np.uint8)


def correct(logits: Tensor) -> Tensor:
    """Probability correction of logits (B, 1, H, W): in each image, divide the positive ones by their share of the
    pixels, and the negative ones by theirs.

    No sign changes, so a mask cut at 0.5 stays as it is; lesions are small, so maps become more certain of them, which
    counts where thresholds are swept.
    """
    result = logits
    for side in (logits > 0, logits < 0):
        share = side.float().mean((1, 2, 3), keepdim=True)
        result = torch.where(side, logits / share.clamp(min=torch.finfo(torch.float32).tiny), result)
    return result
