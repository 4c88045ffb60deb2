"""What `evaluate` left in its folder, read back: by `filter`, by a study, by the same call again."""

import math
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_csv, read_json, require_kind


class _Flagged(TypedDict):
    synthetic: str


class _Novelty(TypedDict):
    flagged: list[_Flagged]


class _Protocol(TypedDict):
    synthetic: str


class _Mean(TypedDict):
    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class _Fit(TypedDict):
    dice: _Mean
    shuffled: _Mean


class Evaluation(TypedDict):
    """The part of `metrics.json` that other commands take."""

    fit: _Fit
    novelty: _Novelty
    protocol: _Protocol


def read_evaluation(scores: Path) -> dict[str, Any]:
    """The whole of `metrics.json` in the folder `scores`.

    Raises:
        InputError: there is none, or it is not what `evaluate` writes.
    """
    path = scores / "metrics.json"
    found: dict[str, Any] = read_json(path, dict[str, Any])
    if "protocol" not in found or "novelty" not in found:
        raise InputError(f"{scores}: its evaluation is of an older version; run `evaluate` again")
    require_kind(found, Evaluation, str(path))
    return found


def read_fits(path: Path, dice: str = "dice") -> dict[str, tuple[float, float]]:
    """Dice and boundary distance by name, of a `fit.csv`; `dice` is the column of the former.

    Raises:
        InputError: there is none, or it is no such table.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; --scores takes a folder that `evaluate` wrote")
    found: dict[str, tuple[float, float]] = {}
    for row in read_csv(path, ("name", dice, "boundary")):
        if row["name"] in found:
            raise InputError(f"{path}: has {row['name']} twice")
        found[row["name"]] = (_share(row[dice], path), _share(row["boundary"], path))
    return found


def _share(text: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"{path}: {text[:40]!r} is no share from 0 to 1; take the table that `evaluate` wrote")
    return value
