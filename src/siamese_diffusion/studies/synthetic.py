"""The synthetic sets of a study: how many pairs there are, whether they obey their masks, are sharp, and are new.

All figures are what `evaluate` found in the rounds that a set is taken from.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from siamese_diffusion.differences import paired, shown
from siamese_diffusion.evaluation.metrics.mask_fit import interval
from siamese_diffusion.evaluation.scores import read_fits
from siamese_diffusion.studies.plan import Made, Plan
from siamese_diffusion.studies.schema import StudyFile

Row = dict[str, Any]

_WHOSE = ["arm", "data", "real pairs", "diffusion seed"]

_MEANS = (
    *("kept", "considered", "fit_kept", "drawn", "shuffled", "judge"),
    *("gradient", "sharpness", "flagged", "false_alarms"),
)
"""Figures of a set that are averaged over trainings."""


class SetTable(NamedTuple):
    """A table with its question and what its columns are."""

    title: str
    text: str
    """What was measured, and how."""
    header: list[str]
    body: list[list[str]]


def synthetic_sets(plan: Plan) -> list[Row]:
    """A row for every synthetic set that is chosen.

    `wanted`, `considered` and `kept` are numbers of pairs. Of all pairs drawn, None where not measured: `drawn` and
    `shuffled` are mean Dice of the judge's prediction with their own masks and with those of other pairs, `drawn_low`
    and `drawn_high` the interval of the first (95 %, bootstrap over the real masks), `judge` the judge's Dice on real
    validation pairs; `gradient` and `sharpness` are edge strength and Laplacian variance as shares of the real images';
    `flagged` is the share that is suspiciously near to a training image, `false_alarms` the same of real images.
    `against` is the mean difference in fit to the arm that the study names, see `_fit_difference`.
    """
    reference = {
        (id(made.cell), made.diffusion_seed): made for made in plan.made if made.arm.name == plan.study.file.against
    }
    rows = []
    for made in plan.made:
        if not made.chosen.done:
            continue
        found = [stage.result for stage in made.scores] if all(stage.done for stage in made.scores) else []
        other = reference.get((id(made.cell), made.diffusion_seed))
        rows.append(
            {
                "data": made.cell.data,
                "pairs": made.cell.count,
                "fold": made.cell.fold,
                "arm": made.arm.name,
                "kind": made.arm.kind,
                "diffusion_seed": made.diffusion_seed,
                "ratio": made.arm.ratio,
                "min_fit": made.arm.min_fit,
                "run": made.arm.run,
                **{name: made.chosen.result[name] for name in ("wanted", "considered", "kept")},
                "fit_kept": made.chosen.result["fit"],
                "drawn": _mean(found, lambda result: result["fit"]["dice"]["mean"]),
                **_fit_interval(made, bool(found)),
                "shuffled": _mean(found, lambda result: result["fit"]["shuffled"]["mean"]),
                "judge": _mean(found, lambda result: result["fit"]["judge"]["dice"]),
                "gradient": _share(found, "gradient"),
                "sharpness": _share(found, "sharpness"),
                "flagged": _mean(found, lambda result: result["novelty"]["share_flagged"]),
                "false_alarms": _mean(found, lambda result: result["novelty"]["false_alarm_rate"]),
                "against": _fit_difference(made, other) if other is not None else None,
                "folder": str((made.chosen.folder / "pairs").relative_to(plan.root)),
            }
        )
    return rows


def over_trainings(rows: list[Row], confidence: float = 0.95) -> list[Row]:
    """A row for every data set, number of pairs and arm with more than one diffusion seed, each set counting once.

    Args:
        rows: from `synthetic_sets`.
        confidence: of the interval.

    Returns:
        `data`, `pairs`, `arm`, `diffusion_seeds`, `folds`; the means of `kept`, `considered`, `fit_kept`, `drawn`,
        `shuffled`, `judge`, `gradient`, `sharpness`, `flagged` and `false_alarms`, None where not measured for each;
        `drawn_sd`; and `against`, the mean over trainings of the difference in fit with its t interval, as `paired`
        returns it.
    """
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["pairs"], row["arm"]), []).append(row)
    found = []
    for (data, pairs, arm), sets in groups.items():
        if len(sets) < 2:
            continue
        means = {name: _mean_of_all(sets, name) for name in _MEANS}
        differences = [row["against"]["mean"] for row in sets if row["against"] is not None]
        found.append(
            {
                "data": data,
                "pairs": pairs,
                "arm": arm,
                "diffusion_seeds": [row["diffusion_seed"] for row in sets],
                "folds": len({row["fold"] for row in sets if row["fold"] is not None}),
                **means,
                "drawn_sd": None if means["drawn"] is None else statistics.stdev(row["drawn"] for row in sets),
                "against": paired(differences, [0.0] * len(differences), confidence) if differences else None,
            }
        )
    return found


def set_tables(rows: list[Row], file: StudyFile) -> list[SetTable]:
    """What `synthetic_sets` and `over_trainings` found, for people; what was not measured at all is left out."""
    if not rows:
        return []
    means = over_trainings(rows, file.confidence)
    tables = [_obedience(rows, means, file)]
    if any(row["flagged"] is not None for row in rows):
        tables.append(_likeness([*rows, *means]))
    return tables


def _obedience(rows: list[Row], means: list[Row], file: StudyFile) -> SetTable:
    text = (
        "A judge that was trained on real pairs only looks at each synthetic image. Fit is the Dice of what it finds "
        "with the mask that the image is for, 0 to 100, with its 95 % bootstrap interval over the real masks; with "
        "shuffled masks it shows what chance gives; the judge's own Dice is on real validation pairs."
    )
    header = [*_WHOSE, "kept", "fit of all drawn"]
    if file.against:
        header.append(f"fit - {file.against}")
        text += (
            f" Fit - {file.against}: the difference for the same masks and the same noise, image by image, with its "
            f"95 % bootstrap interval over the real masks."
        )
    if means:
        text += " A line for several diffusion seeds is their mean, ± the standard deviation over trainings" + (
            f", and the difference's {100 * file.confidence:g} % t interval over them." if file.against else "."
        )
    filtered = any(row["fit_kept"] is not None for row in rows)
    header += [*(["fit of kept"] if filtered else []), "shuffled", "judge on real"]
    body = []
    for row in [*rows, *means]:
        fit = _points(row["drawn"])
        if row.get("drawn_sd") is not None:
            fit += f" ± {_points(row['drawn_sd'])}"
        elif row.get("drawn_low") is not None:
            fit += f" [{_points(row['drawn_low'])}, {_points(row['drawn_high'])}]"
        figures = [fit, *([shown(row["against"])] if file.against else [])]
        figures += [_points(row[name]) for name in (*(["fit_kept"] if filtered else []), "shuffled", "judge")]
        body.append([*_whose(row), f"{row['kept']:g} of {row['considered']:g}", *figures])
    return SetTable("Do the images obey their masks?", text, header, body)


def _likeness(rows: list[Row]) -> SetTable:
    text = (
        "Edge strength (mean gradient) and sharpness (variance of the Laplacian) are shares of the real training "
        "images'. Flagged: images suspiciously near to a training image. False alarms: the share of real images that "
        "the same threshold flags."
    )
    header = [*_WHOSE, "edge strength", "sharpness", "flagged, %", "false alarms, %"]
    body = []
    for row in rows:
        shares = ["" if row[name] is None else f"{row[name]:.2f}" for name in ("gradient", "sharpness")]
        body.append([*_whose(row), *shares, _points(row["flagged"]), _points(row["false_alarms"])])
    return SetTable("Are they sharp, and are they new?", text, header, body)


def _fit_interval(made: Made, scored: bool) -> Row:
    """Of the fit of all pairs drawn; images for one real mask, of several rounds, count as one."""
    if not scored:
        return {"drawn_low": None, "drawn_high": None}
    by_mask: dict[str, list[float]] = {}
    for stage in made.scores:
        for name, (dice, _) in read_fits(stage.folder / "fit.csv").items():
            by_mask.setdefault(name, []).append(dice)
    found = interval(np.array([statistics.fmean(by_mask[name]) for name in sorted(by_mask)]))
    return {"drawn_low": found["low"], "drawn_high": found["high"]}


def _fit_difference(made: Made, other: Made) -> dict[str, Any] | None:
    """Mean difference in Dice, image by image, where both arms drew for the same masks from the same noise.

    Returns:
        `mean`, `low`, `high` (95 %, bootstrap over the real masks that the rounds' masks come from), and `n` images.
        None for the arm itself, for other masks, and until both are scored.
    """
    drawn = made.arm.diffusion and other.arm.diffusion
    if made is other or not drawn or made.arm.recipe != other.arm.recipe:
        return None
    both = list(zip(made.scores, other.scores, strict=False))
    if not both or not all(stage.done for pair in both for stage in pair):
        return None
    by_mask: dict[str, list[float]] = {}
    for mine, theirs in both:
        own, fits = (read_fits(stage.folder / "fit.csv") for stage in (mine, theirs))
        for name in own.keys() & fits.keys():
            by_mask.setdefault(name, []).append(own[name][0] - fits[name][0])
    means = np.array([statistics.fmean(by_mask[name]) for name in sorted(by_mask)])
    return interval(means) | {"n": sum(map(len, by_mask.values()))}


def _mean(found: list[Row], figure: Callable[[Row], float | None]) -> float | None:
    listed = [value for value in map(figure, found) if value is not None]
    return statistics.fmean(listed) if listed else None


def _mean_of_all(sets: list[Row], name: str) -> float | None:
    values = [row[name] for row in sets if row[name] is not None]
    return statistics.fmean(values) if len(values) == len(sets) else None


def _share(found: list[Row], name: str) -> float | None:
    """The geometric mean over the rounds: the figure is a log ratio."""
    mean = _mean(found, lambda result: result["appearance"]["difference"][name])
    return None if mean is None else math.exp(mean)


def _whose(row: Row) -> list[str]:
    seeds = row["diffusion_seeds"] if "diffusion_seeds" in row else [row["diffusion_seed"]]
    said = ", ".join(map(str, dict.fromkeys(seeds)))
    fold = row.get("fold")
    said += f"; {row['folds']} folds" if row.get("folds") else "" if fold is None else f"; fold {fold}"
    return [row["arm"], row["data"], str(row["pairs"]), said]


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
