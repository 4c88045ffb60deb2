"""`study --example`: a study file with a comment on every line, for the data at hand where they are named."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from siamese_diffusion.config import Config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.splits import own_test_pairs
from siamese_diffusion.errors import InputError

FEW = 40
"""Training pairs below which a study of one size is all there is to have; from there on a row of half of them too."""
FOLDS = 5
LEAST = 20
"""Pairs below which a fold holds too few to tell anything."""


def example(data: Mapping[str, Path] | None = None) -> str:
    """The text of a study file.

    Args:
        data: name of each data set, and its folder of pairs; default: one that is to be filled in.

    Raises:
        InputError: a folder holds no pairs, or so few that a study says nothing.
    """
    sets = [_described(name, path) for name, path in (data or {}).items()]
    folds = bool(sets) and not any(own for _, own, _ in sets)
    if sets and not folds and not all(own for _, own, _ in sets):
        without = next(name for name, (_, own, _) in zip(data or {}, sets, strict=True) if not own)
        raise InputError(
            f"--data {without}: has no list of test pairs, and others have; `prepare --split 0.7,0.1,0.2` makes one"
        )
    fewest = min((count for _, _, count in sets), default=100)
    template = (resources.files("siamese_diffusion") / "templates" / "study.yaml").read_text(encoding="utf-8")
    lines = (
        "\n".join(text for text, _, _ in sets)
        or "  mine: {train: PATH/TO/PAIRS}  # a folder that `siamese-diffusion check` reads"
    )
    return template.format(
        label=Config().data.label,
        data=lines,
        pairs=f"[{fewest // 2}, all]" if fewest >= FEW else "[all]",
        folds=f"folds: {FOLDS}" if folds else f"# folds: {FOLDS}",
    )


def _described(name: str, path: Path) -> tuple[str, bool, int]:
    """The line of a data set, whether it has test pairs of its own, and how many pairs there are to train on."""
    folder = DataFolder(path, f"--data {name}=").require_real()
    own = own_test_pairs(folder)
    count = len(folder.pairs("train" if own else None))
    if count < LEAST:
        raise InputError(f"--data {name}={path}: has {count} training pairs; a study takes at least {LEAST}")
    tests = f"{len(own)} test pairs" if own else "no list of test pairs: folds, below, hold each out once"
    return f"  {name}: {{train: {_quoted(path.absolute())}}}  # {count} training pairs, {tests}", bool(own), count


def _quoted(path: Path) -> str:
    text = str(path).replace("'", "''")
    return f"'{text}'"
