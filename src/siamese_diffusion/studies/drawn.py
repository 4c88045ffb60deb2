"""Pictures of what the arms drew: a column is a training pair, a row an arm, the training images themselves below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_diffusion.data.classes import AnyMask, shown_colours
from siamese_diffusion.data.folder import open_as_written
from siamese_diffusion.data.images import Pixels, square
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.report import labelled_rows
from siamese_diffusion.settings import MOST_CLASSES
from siamese_diffusion.studies.cells import Cell
from siamese_diffusion.studies.plan import Made, Plan

PAIRS_SHOWN = 8
TILE = 192
"""Side of a picture, in pixels."""

CAPTION = (
    "Each column belongs to one training pair, whose image is in the last row; above it are the masks that were taken "
    "from this pair and what each arm drew for them. The first of all pairs drawn, by name, before any is left out."
)


@dataclass(frozen=True)
class Grid:
    """The pictures of a data set with so many of its pairs."""

    name: str
    """Of the file."""
    title: str
    png: bytes


def drawn_grids(plan: Plan) -> list[Grid]:
    """A grid for each cell in which an arm has drawn a round."""
    grids = []
    for cell, arms in _by_cell(plan):
        rounds = {made.rounds[0].key: _by_name(made.rounds[0].folder) for made in arms}
        real = [pair for pair in cell.real if all(pair.name in pairs for pairs in rounds.values())][:PAIRS_SHOWN]
        if real:
            rows: dict[str, list[Pixels]] = {}
            for masks, sharing in _by_masks(arms).items():
                rows.update(_rows(masks, sharing, rounds, [pair.name for pair in real]))
            rows["training image"] = _images(real)
            grids.append(
                Grid(
                    f"{cell.data}-{cell.count}{'' if cell.fold is None else f'-fold-{cell.fold}'}",
                    f"{cell.title}.",
                    labelled_rows(rows, 1.05),
                )
            )
    return grids


def _by_cell(plan: Plan) -> list[tuple[Cell, list[Made]]]:
    """Cells with one set of each family of arms, of the first diffusion seed, whose first round is drawn."""
    found: dict[int, tuple[Cell, dict[str, Made]]] = {}
    for made in plan.made:
        if made.rounds[0].done:
            found.setdefault(id(made.cell), (made.cell, {}))[1].setdefault(made.arm.family, made)
    return [(cell, list(arms.values())) for cell, arms in found.values()]


def _by_masks(arms: Sequence[Made]) -> dict[str, list[Made]]:
    """Arms that drew for the same masks, by what those are called."""
    recipes = {made.arm.recipe for made in arms if made.arm.diffusion and made.arm.recipe != "none"}
    groups: dict[str, list[Made]] = {}
    for made in arms:
        varied = "varied mask" if len(recipes) == 1 else f"mask, {made.arm.recipe}"
        of_diffusion = "real mask" if made.arm.recipe == "none" else varied
        groups.setdefault(of_diffusion if made.arm.diffusion else f"mask, {made.arm.family}", []).append(made)
    return groups


def _rows(
    masks: str, arms: Sequence[Made], rounds: Mapping[str, Mapping[str, Pair]], names: Sequence[str]
) -> dict[str, list[Pixels]]:
    """A row of masks, and one for each round drawn for them; arms that share a round share its row."""
    families: dict[str, list[str]] = {}
    for made in arms:
        families.setdefault(made.rounds[0].key, []).append(made.arm.family)
    drawn = {key: [rounds[key][name] for name in names] for key in families}
    rows = {masks: [_white(pair.mask.read()) for pair in next(iter(drawn.values()))]}
    rows.update({" / ".join(families[key]): _images(pairs) for key, pairs in drawn.items()})
    return rows


def _by_name(folder: Path) -> dict[str, Pair]:
    return {pair.name: pair for pair in open_as_written(folder).pairs()}


def _images(pairs: Sequence[Pair]) -> list[Pixels]:
    return [pair.image.squared(TILE) for pair in pairs]


def _white(mask: AnyMask) -> Pixels:
    """The lesion in white on black, or each class in its colour, uint8 (TILE, TILE, 3)."""
    small = square(mask, TILE)
    if mask.dtype != np.bool_:
        return np.asarray(shown_colours(MOST_CLASSES)[small])
    return small[..., None].repeat(3, -1).astype(np.uint8) * 255
