"""What `check` found: the pairs of a folder, and the report on them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.looks import Problem


@dataclass(frozen=True)
class Item:
    """A pair and what the folder says of it."""

    name: str
    image: Path
    mask: MaskSource
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Report:
    """What `check` found. Sizes are (width, height) in pixels; coverage is the lesion's share of the image."""

    folder: str
    layout: str
    pairs: int
    splits: dict[str, int]
    sizes: dict[str, tuple[int, int]]
    formats: dict[str, int]
    coverage: dict[str, float]
    masks: str = ""
    """What the values of the masks mean."""
    healthy: int = 0
    """Images with an empty mask."""
    lesions: dict[str, Any] = field(default_factory=dict)
    """`count`, `lost` and `cut_off` at `resolution`, and the first `keeping` resolution, None where there is none."""
    notes: list[str] = field(default_factory=list)
    """What was matched otherwise than by equal names or left out, and how files are read where that is not plain."""
    groups: int = 0
    """Patients, videos and the like, where the folder tells them."""
    problems: list[Problem] = field(default_factory=list)
    next: str = ""
    """What to do now: a command to type, or what to mend first."""

    @property
    def usable(self) -> bool:
        """Whether `train` would take the folder, and `segment` its own splits."""
        return not any(problem.fatal for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "usable": self.usable}
