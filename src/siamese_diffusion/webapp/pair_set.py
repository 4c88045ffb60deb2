"""A folder of pairs with what `evaluate` found of each: sorted, filtered, and written without those that were
dropped."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.scores import read_evaluation, read_fits
from siamese_diffusion.files import read_csv


@dataclass(frozen=True)
class Entry:
    """A pair and what is known of it; None: not known."""

    pair: Pair
    dice: float | None = None
    """Of the mask that the judge sees with its own."""
    boundary: float | None = None
    """Distance of the outlines, as a share of the diagonal."""
    nearest: str | None = None
    """Name of the nearest training image."""
    distance: float | None = None
    """To it: below 1 it is nearer than training images are to each other."""
    flip: str = "none"
    """How the training image is turned to be nearest."""
    flagged: bool | None = None
    """As a copy of it."""

    @property
    def name(self) -> str:
        return self.pair.name

    @property
    def group(self) -> str | None:
        return self.pair.group

    @property
    def label(self) -> str | None:
        """What the pair is of, where its row tells: `class`, `label`, or what was asked for."""
        named = self.pair.extra.get("class") or self.pair.extra.get("label") or self.pair.prompt
        return None if named is None else str(named)


@dataclass(frozen=True)
class Wish:
    """Which pairs are shown, and in which order."""

    sort: str = "name"
    min_dice: float | None = None
    max_boundary: float | None = None
    flagged: str = "all"
    group: str | None = None
    label: str | None = None


SORTS: dict[str, tuple[str, Callable[[Entry], Any]]] = {
    "name": ("by name", lambda entry: entry.name),
    "worst": ("worst mask fit first", lambda entry: _or_last(entry.dice)),
    "best": ("best mask fit first", lambda entry: _or_last(entry.dice, -1)),
    "boundary": ("outlines farthest apart first", lambda entry: _or_last(entry.boundary, -1)),
    "nearest": ("nearest to a real image first", lambda entry: _or_last(entry.distance)),
}
"""Orders by their names: what they are called, and the key."""

FLAGGED = {"all": "all pairs", "flagged": "only those flagged as copies", "new": "without those flagged as copies"}


def _or_last(value: float | None, sign: int = 1) -> tuple[bool, float]:
    return value is None, 0.0 if value is None else sign * value


class PairSet:
    """The pairs of a folder.

    Args:
        folder: where they are.
        scores: what `evaluate` wrote of them, or of others: then there are none.
        pairs: those of the folder, where they are known.
        reals: folders of real pairs that are open, where the one that `evaluate` compared with cannot be read.
    """

    def __init__(
        self, folder: Path, scores: Path | None, pairs: Sequence[Pair] | None = None, reals: Sequence[Path] = ()
    ) -> None:
        self.folder, self.reals = folder, reals
        found = DataFolder(folder).pairs() if pairs is None else list(pairs)
        fits = read_fits(scores / "fit.csv") if scores is not None else {}
        self.scores = scores if scores is not None and fits.keys() == {pair.name for pair in found} else None
        near = _novelty(self.scores) if self.scores is not None else {}
        self.entries = [_entry(pair, fits if self.scores else {}, near) for pair in found]

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def groups(self) -> list[str]:
        return sorted({entry.group for entry in self.entries if entry.group is not None})

    @cached_property
    def labels(self) -> list[str]:
        return sorted({entry.label for entry in self.entries if entry.label is not None})

    def real(self) -> dict[str, Pair]:
        """The training pairs that `evaluate` compared with, by name; none where they have gone."""
        if self.scores is None:
            return {}
        compared = Path(read_evaluation(self.scores)["protocol"].get("real", ""))
        for folder in (compared, *self.reals):
            with suppress(InputError):
                return {pair.name: pair for pair in DataFolder(folder).pairs()}
        return {}

    def view(self, wish: Wish) -> list[Entry]:
        """What is wished for.

        Raises:
            InputError: an order that there is not.
        """
        if wish.sort not in SORTS or wish.flagged not in FLAGGED:
            raise InputError(f"order {wish.sort}, {wish.flagged}: unknown")
        kept = [entry for entry in self.entries if _fits(entry, wish)]
        return sorted(kept, key=lambda entry: (SORTS[wish.sort][1](entry), entry.name))

    def write(self, out: Path, wish: Wish, dropped: Collection[str], anyway: bool = False) -> dict[str, Any]:
        """What `filter` writes for the same bounds, without those that were dropped by hand.

        A group, a class and the flagged are chosen by leaving the other pairs out by name.

        Raises:
            InputError: see `filter_`.
        """
        from siamese_diffusion.evaluation.filter import filter_

        hidden = {
            entry.name
            for entry in self.entries
            if (wish.group is not None and entry.group != wish.group)
            or (wish.label is not None and entry.label != wish.label)
            or (wish.flagged == "flagged" and not entry.flagged)
        }
        return filter_(
            self.scores,
            out,
            min_dice=wish.min_dice if self.scores else None,
            max_boundary=wish.max_boundary if self.scores else None,
            drop_flagged=wish.flagged == "new" and self.scores is not None,
            synthetic=self.folder,
            anyway=anyway,
            drop=sorted(hidden | set(dropped)),
        )


def _entry(pair: Pair, fits: Mapping[str, tuple[float, float]], near: Mapping[str, dict[str, Any]]) -> Entry:
    dice, boundary = fits.get(pair.name, (None, None))
    row = near.get(pair.name)
    if row is None:
        return Entry(pair, dice, boundary)
    return Entry(pair, dice, boundary, row["real"], float(row["distance"]), row["flip"], row["flagged"] == "1")


def _novelty(scores: Path) -> dict[str, dict[str, Any]]:
    path = scores / "novelty.csv"
    if not path.exists():
        return {}
    return {row["name"]: row for row in read_csv(path, ("name", "real", "distance", "flip", "flagged"))}


def _fits(entry: Entry, wish: Wish) -> bool:
    return not (
        (wish.min_dice is not None and entry.dice is not None and entry.dice < wish.min_dice)
        or (wish.max_boundary is not None and entry.boundary is not None and entry.boundary > wish.max_boundary)
        or (wish.flagged == "flagged" and not entry.flagged)
        or (wish.flagged == "new" and entry.flagged)
        or (wish.group is not None and entry.group != wish.group)
        or (wish.label is not None and entry.label != wish.label)
    )
