"""What was decided of a folder's files, carried to a folder that names some of them: `reading.json` beside its
`pairs.jsonl`.

Some of a folder's masks may hold fewer values than all, and some of its images less of their range; read by
themselves, they would be read in another way.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from siamese_diffusion.data.coding import Coding
from siamese_diffusion.data.stored import Form
from siamese_diffusion.files import read_json, write_json

READING = "reading.json"


@dataclass(frozen=True)
class Decided:
    """The decisions of a `Decoding` that are of the folder as a whole."""

    coding: Coding
    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Black and white of images of more than 8 bits, by kind."""
    scaled: bool = False
    """Whether most masks have another size than their images, in one ratio."""
    names: dict[str, int] = field(default_factory=dict)
    """What the folder calls the labels."""
    converted: bool = False
    """Whether some images are converted to sRGB by their profiles."""


_Two = Annotated[list[int], Field(min_length=2, max_length=2)]
_Numbers = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Coding(TypedDict):
    kind: Literal["binary", "labels", "colours", "palette", "alpha"]
    form: Form
    table: list[_Two]
    foreground: list[int] | None
    soft: bool
    dim: bool
    forced: bool
    exact: bool
    invert: bool
    everything: bool
    palette: list[_Two]
    marks: list[int]
    notes: list[str]


class _Reading(TypedDict):
    coding: _Coding
    levels: dict[str, _Numbers]
    scaled: bool
    names: dict[str, int]
    converted: bool


def write_decided(folder: Path, decided: Decided) -> None:
    """Write `reading.json` into a folder that has, or will have, a `pairs.jsonl`."""
    coding = asdict(decided.coding)
    coding |= {name: _pairs(coding[name]) for name in ("table", "palette")}
    coding["foreground"] = None if coding["foreground"] is None else sorted(coding["foreground"])
    levels = {kind: list(found) for kind, found in decided.levels.items()}
    write_json(folder / READING, {**asdict(decided), "coding": coding, "levels": levels})


def read_decided(folder: Path) -> Decided | None:
    """What a folder's `reading.json` says; None without one.

    Raises:
        InputError: it is not what `write_decided` writes.
    """
    if not (folder / READING).exists():
        return None
    found = read_json(folder / READING, _Reading)
    coding: dict[str, Any] = dict(found["coding"])
    coding |= {name: {int(key): int(value) for key, value in coding[name]} for name in ("table", "palette")}
    coding["foreground"] = None if coding["foreground"] is None else frozenset(coding["foreground"])
    coding |= {name: tuple(coding[name]) for name in ("marks", "notes")}
    levels = {kind: (float(low), float(high)) for kind, (low, high) in found["levels"].items()}
    return Decided(Coding(**coding), levels, found["scaled"], found["names"], found["converted"])


def _pairs(table: dict[int, int]) -> Iterable[list[int]]:
    return [[int(key), int(value)] for key, value in sorted(table.items())]
