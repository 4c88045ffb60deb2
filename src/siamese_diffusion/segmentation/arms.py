"""Real pairs alone against real with synthetic ones: both arms trained several times, and what follows from it.

Design note: training i of either arm begins with seed + i, from the same weights, is chosen and scored by the same
pairs and takes as many steps. So the trainings are paired, and a run of each kind comes out of any number of them.
Each is a run of its own in `real/seed-I/` or `mixed/seed-I/`, claimed, killed and resumed like any other.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from typing_extensions import TypedDict

from siamese_diffusion.claim import Claim
from siamese_diffusion.config import Config, update
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, require_kind, write_json
from siamese_diffusion.segmentation import arms_page, crossvalidation, improvement, training
from siamese_diffusion.segmentation.batches import share_of_made
from siamese_diffusion.segmentation.improvement import Outcome, read_images
from siamese_diffusion.segmentation.material import Material
from siamese_diffusion.segmentation.scoring import HELD
from siamese_diffusion.segmentation.trained import ARMS

COMMAND = "segment --arms"
"""In the mark: a folder of arms is not gone on with as a plain run, nor the other way round."""

REAL, MIXED = "real", "mixed"
BOTH = "both"
SEEDS = 3
"""Trainings of each arm where nothing is said: the fewest that show a spread."""

VALIDATION, HELD_OUT = "validation pairs", "out of fold"
"""Names of sets that are no test set."""


def chosen(synthetic: bool, arms: str | None, seeds: int | None, folds: int | None) -> tuple[list[str], int]:
    """Which arms are trained, and how often each.

    Args:
        synthetic: there are synthetic pairs.
        arms: "both" or "mixed"; default: both, with synthetic pairs.
        seeds: trainings of each arm; default: `SEEDS` of both arms, else one.
        folds: of a cross-validation, whose folds are its trainings.

    Raises:
        InputError: they do not fit together.
    """
    if arms is not None and arms not in (BOTH, MIXED):
        raise InputError(f"--arms {arms}: is {BOTH} (real pairs alone, and with synthetic ones) or {MIXED}")
    if arms is not None and not synthetic:
        raise InputError(f"--arms {arms}: there is one arm alone without --synthetic")
    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds {seeds}: must be 1 or more")
    if seeds is not None and seeds > 1 and folds is not None:
        raise InputError(f"--seeds {seeds}: not with --folds, whose networks are the trainings; leave out one of them")
    names = [REAL, MIXED] if synthetic and arms != MIXED else [MIXED if synthetic else REAL]
    return names, seeds or (SEEDS if len(names) > 1 and folds is None else 1)


def compare(
    material: Material,
    out: Path,
    config: Config,
    arms: Sequence[str],
    seeds: int,
    folds: int | None,
    resume: bool,
    device: str,
) -> dict[str, Any]:
    """Train each arm several times and compare them.

    Args:
        material: the pairs; with `folds` those for validation are among the real ones.
        out: gets the runs, `report.html`, `curves.png`, and last `arms.json`, which is what is returned.
        config: resolved settings; training i has the seed `segment.seed` + i.
        arms: of `REAL` and `MIXED`, one or both.
        seeds: trainings of each.
        folds: instead, a cross-validation of each arm, whose folds are its trainings.
        resume: go on with what is there.
        device: "auto", "cpu", "cuda" ...

    Returns:
        `arms`, `seeds` and `folds`, as given; `network`, `parameters`, `imagenet`, `train` (folders and counts);
        `sets`, {set: {arm: {figure: {mean, sd}}, count}}, and with both arms `difference` of each set and `verdict`
        (see `improvement`); `runs`, of each `arm`, `run` (its folder in `out`), `step`, `stopped`, `val` and `test`;
        `best`, the folder of the run with the best validation Dice.

    Raises:
        InputError: see `segment.segment`.
    """
    inputs = {**material.inputs(), "command": COMMAND, "--arms": list(arms), "--seeds": seeds, "--folds": folds}
    claim = Claim(out, config, training.DEPENDS, inputs, resume)
    if (out / ARMS).exists():
        return read_summary(out)
    begun = time.monotonic()
    claim.write()
    parts = {REAL: replace(material, made=[], made_folders=[]), MIXED: material}
    runs: dict[str, list[tuple[str, dict[str, Any]]]] = {arm: [] for arm in arms}
    for i in range(seeds if folds is None else 1):
        for arm in arms:  # side by side, so that an interrupted comparison has pairs of trainings to look at
            if folds is not None:
                whole = crossvalidation.cross_validate(parts[arm], out / arm, config, folds, True, device)
                runs[arm] = [(f"{arm}/fold-{row['fold']}", row) for row in whole["per_fold"]]
                continue
            seeded = update(config, "segment", seed=config.segment.seed + i)
            part = replace(parts[arm], searched=i > 0 or arm != arms[-1])  # once: the last arm has all pairs
            result = training.run(part, out / arm / f"seed-{i}", seeded, True, device)
            runs[arm].append((f"{arm}/seed-{i}", result))
    with PartialState().main_process_first():  # the other processes wait, then read what the first one wrote
        if not (out / ARMS).exists():
            outcomes = {arm: _outcome(out, rows) for arm, rows in runs.items()}
            summary = _summary(material, config, runs, outcomes, out, seeds, folds)
            arms_page.write(out, summary, outcomes, material, config, time.monotonic() - begun)
            write_json(out / ARMS, summary)
    return read_summary(out)


class Summary(TypedDict):
    """The part of `arms.json` that other commands take."""

    best: str
    runs: list[dict[str, Any]]


def read_summary(out: Path) -> dict[str, Any]:
    """What `compare` returned when it made `out`."""
    found: dict[str, Any] = read_json(out / ARMS, dict[str, Any])
    require_kind(found, Summary, str(out / ARMS))
    return found


def _outcome(out: Path, runs: Sequence[tuple[str, dict[str, Any]]]) -> Outcome:
    """The figures of an arm, and its images' from the tables of its runs."""
    figures, images, names = [], {}, {}
    for _, result in runs:
        sets = dict(result["test"])
        if "held_out" in result:
            sets = {HELD_OUT: result["held_out"], **sets}
        elif not sets:
            sets = {VALIDATION: result["val"]}
        figures.append(sets)
    for name in figures[0]:
        table = "validation.csv" if name == VALIDATION else f"test/{name}.csv"
        if name == HELD_OUT:  # each fold has images of its own
            parts = [read_images([out / run / HELD]) for run, _ in runs]
            names[name] = [each for part, _ in parts for each in part]
            images[name] = {figure: np.concatenate([part[figure] for _, part in parts]) for figure in parts[0][1]}
        else:
            names[name], images[name] = read_images([out / run / table for run, _ in runs])
    return Outcome(figures, images, names)


def _summary(
    material: Material,
    config: Config,
    runs: Mapping[str, Sequence[tuple[str, dict[str, Any]]]],
    outcomes: Mapping[str, Outcome],
    out: Path,
    seeds: int,
    folds: int | None,
) -> dict[str, Any]:
    rows = [{"arm": arm, "run": run, **_short(result)} for arm in runs for run, result in runs[arm]]
    first = training.read_result(out / rows[0]["run"])
    settings = config.segment
    sets: dict[str, dict[str, Any]] = {
        name: {
            "count": sum(int(row[name]["count"]) for row in one.figures) if name == HELD_OUT else int(entry["count"]),
            **{arm: _spread([row[name] for row in outcome.figures]) for arm, outcome in outcomes.items()},
        }
        for one in [outcomes[next(iter(outcomes))]]
        for name, entry in one.figures[0].items()
    }
    found: dict[str, Any] = {
        "arms": list(runs),
        "seeds": seeds,
        "folds": folds,
        **{name: first[name] for name in ("network", "parameters", "imagenet")},
        "seed": settings.seed,
        "train": {
            **material.counts,
            "synthetic_share": share_of_made(settings, len(material.real), len(material.made)),
        },
        "sets": sets,
        "runs": rows,
        "best": rows[int(np.argmax([row["val"]["mDice"] for row in rows]))]["run"],
    }
    if len(runs) > 1:
        changes = improvement.differences(outcomes[REAL], outcomes[MIXED])
        name = HELD_OUT if folds is not None else improvement.OVER if len(sets) > 1 else next(iter(sets))
        judged = changes[name]
        count = sum(entry["count"] for each, entry in sets.items() if name in (each, improvement.OVER))
        validation = list(sets) == [VALIDATION]
        where = VALIDATION if validation else "images held out" if folds is not None else "test images"
        unit = "folds" if folds is not None else "trainings"
        found["difference"] = changes
        if "mDice" in judged:
            answer = improvement.verdict(judged["mDice"], count, where, unit, validation)
            found["verdict"] = {"question": answer.question, "word": answer.word, "because": answer.because}
    return found


def _short(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("step", "stopped", "val", "test", "held_out") if name in result}


def _spread(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1; None of one) over trainings of the figures that all have."""
    names = [name for name in rows[0] if name != "count" and all(name in row for row in rows)]
    return {
        name: {
            "mean": statistics.fmean(row[name] for row in rows),
            "sd": statistics.stdev(row[name] for row in rows) if len(rows) > 1 else None,
        }
        for name in names
        if isinstance(rows[0][name], int | float)
    }
