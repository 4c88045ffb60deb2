"""The pairs that a run of `segment` works with: what it learns from, is chosen by and is scored on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_diffusion.claim import listing
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.pairs import Pair, reading


@dataclass(frozen=True)
class Fold:
    """A fold that a run is held to."""

    index: int
    of: int
    held: list[Pair]
    labels: Path
    """Folder that gets what the network sees in them, `NAME.png`."""


@dataclass(frozen=True)
class Material:
    """The pairs of a run."""

    folder: DataFolder
    """Of the real pairs."""
    real: list[Pair]
    validation: list[Pair]
    made: list[Pair]
    """Synthetic ones."""
    made_folders: list[Path]
    tests: dict[str, list[Pair]]
    fold: Fold | None = None
    searched: bool = False
    """Copies of training images among the others were looked for already."""

    @property
    def counts(self) -> dict[str, Any]:
        """Folders and numbers of pairs, as `metrics.json` has them."""
        return {
            "folder": str(self.folder.path.resolve()),
            "real": len(self.real),
            "validation": len(self.validation),
            "synthetic": len(self.made),
            "synthetic_folders": [str(path.resolve()) for path in self.made_folders],
        }

    def inputs(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        seen = [*self.real, *self.validation, *self.made]
        fold = {} if self.fold is None else {"fold": [self.fold.index, self.fold.of, listing(_files(self.fold.held))]}
        return {
            "command": "segment",
            **{name: self.counts[name] for name in ("real", "validation", "synthetic")},
            **note_files(_files(seen)),
            "test": {name: len(pairs) for name, pairs in self.tests.items()},
            **fold,
            **reading([*seen, *(pair for pairs in self.tests.values() for pair in pairs)]),
        }


def _files(pairs: Sequence[Pair]) -> list[Path]:
    return [path for pair in pairs for path in pair.files]
