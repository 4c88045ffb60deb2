"""What a network saw in the images of a set besides its scores: how much of each, and how far its word can be trusted.

Reliability is of pixels (Guo et al., arXiv:1706.04599, equation 3): of those that the network gives a probability near
p, a share near p should be lesion. Most pixels are background that no network doubts, so the error over all pixels is
small whatever happens at lesions; `ece_seen` leaves out the lowest bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from siamese_diffusion.data.arrays import Masks
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, write_json
from siamese_diffusion.segmentation.metrics import SetScores, of_any

BINS = 20


class Scored(NamedTuple):
    """A set that was scored."""

    pairs: Sequence[Pair]
    scores: SetScores
    findings: "Findings"


_Bins = Annotated[list[FiniteFloat], Field(min_length=BINS, max_length=BINS)]


class _Stored(TypedDict):
    count: _Bins
    probability: _Bins
    lesion: _Bins
    truth: list[FiniteFloat]
    seen: list[FiniteFloat]


@dataclass
class Findings:
    """Sums over the pixels of a set, in bins of probability, and shares of its images; filled part by part."""

    count: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    """Pixels of each bin."""
    probability: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    """Sum of their probabilities."""
    lesion: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    """How many of them are lesion."""
    truth: list[float] = field(default_factory=list)
    """Share of each image that is lesion."""
    seen: list[float] = field(default_factory=list)
    """Share of each image that the network marks."""

    def add(self, masks: Masks, seen: NDArray[np.float32]) -> None:
        """Add images: their masks (N, R, R), and probabilities (N, R, R) in [0, 1], or of several classes (N, K + 1, R,
        R), of which is looked at whether a pixel is of any."""
        found = of_any(torch.from_numpy(seen)).numpy()
        for mask, probable in zip(masks != 0, found, strict=True):
            places = np.minimum((probable * BINS).astype(np.int64), BINS - 1).ravel()
            self.count += np.bincount(places, minlength=BINS)
            self.probability += np.bincount(places, probable.ravel(), BINS)
            self.lesion += np.bincount(places, mask.ravel(), BINS)
            self.truth.append(float(mask.mean()))
            self.seen.append(float((probable > 0.5).mean()))

    def join(self, other: "Findings") -> None:
        """Add those of another set."""
        for name in ("count", "probability", "lesion"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.truth += other.truth
        self.seen += other.seen

    @property
    def calibration(self) -> dict[str, float]:
        """Expected calibration error over all pixels, `ece`, and over those with a probability of 1 / `BINS` and more,
        `ece_seen` (0 without such pixels); both in [0, 1]."""
        gaps = np.abs(self.probability - self.lesion)
        return {
            "ece": float(gaps.sum() / max(1.0, self.count.sum())),
            "ece_seen": float(gaps[1:].sum() / max(1.0, self.count[1:].sum())),
        }

    @property
    def lesions(self) -> int:
        """Images with a lesion."""
        return sum(share > 0 for share in self.truth)

    @property
    def missed(self) -> int:
        """Of them, those in which nothing is marked."""
        return sum(share > 0 and not seen for share, seen in zip(self.truth, self.seen, strict=True))

    @property
    def false_alarms(self) -> int:
        """Healthy images in which something is marked."""
        return sum(not share and seen > 0 for share, seen in zip(self.truth, self.seen, strict=True))

    def save(self, path: Path) -> None:
        stored = {name: np.asarray(value).tolist() for name, value in vars(self).items()}
        write_json(path, stored)

    @classmethod
    def load(cls, path: Path) -> "Findings":
        """Raises `InputError` where the file is not what `save` writes."""
        stored: dict[str, Any] = dict(read_json(path, _Stored))
        if len(stored["truth"]) != len(stored["seen"]):
            raise InputError(f"{path}: truth and seen are of different numbers of images")
        arrays = {name: np.array(stored[name]) for name in ("count", "probability", "lesion")}
        return cls(**arrays, truth=stored["truth"], seen=stored["seen"])
