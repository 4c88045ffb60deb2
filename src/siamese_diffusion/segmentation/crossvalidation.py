"""Cross-validation: every pair is held out once, and seen by a network that has never met it or its group.

Design note: each fold is a run of its own in `fold-I/`, claimed, killed and resumed like any other. Its step is picked
by a validation share of its own training part and never by the fold: the best of many validations on the fold would be
a score that was looked for there, and too good.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from siamese_diffusion import pictures
from siamese_diffusion.claim import Claim
from siamese_diffusion.config import Config
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.folds import apart_from, draw_folds
from siamese_diffusion.data.images import square
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.splits import share_apart
from siamese_diffusion.files import read_csv, read_json, to_csv, write_json, write_text
from siamese_diffusion.progress import notify
from siamese_diffusion.report import Table
from siamese_diffusion.segmentation import page, training
from siamese_diffusion.segmentation.curves import Curves
from siamese_diffusion.segmentation.figures import COUNTS
from siamese_diffusion.segmentation.findings import Findings
from siamese_diffusion.segmentation.inference import read_label
from siamese_diffusion.segmentation.material import Fold, Material
from siamese_diffusion.segmentation.metrics import over
from siamese_diffusion.segmentation.scoring import FINDINGS, HELD
from siamese_diffusion.segmentation.trained import FOLDS, SUMMARY

COMMAND = "segment --folds"
"""In the mark: a folder of folds is not gone on with as a plain run, nor the other way round."""

OUT_OF_FOLD = "out-of-fold"

WARNING = (
    "a generator that was trained with a fold's images hands them on: the figures hold only if that of the synthetic "
    "pairs was not. What their rows say is heeded: a pair whose mask comes from a fold is left out of that fold's "
    "training"
)


def cross_validate(
    material: Material, out: Path, config: Config, count: int, resume: bool, device: str
) -> dict[str, Any]:
    """Train a network for each fold and see its images with it.

    Args:
        material: all pairs, in `real`; none are for validation yet.
        out: gets a run in each `fold-I/`; `folds.json`, names of pairs by fold; `out-of-fold/scores.csv`, a line a
            pair, and `out-of-fold/masks/NAME.png`, what the network of its fold sees in it; `curves.png`,
            `report.html`, and last `summary.json`, which is what is returned.
        config: resolved settings.
        count: of folds.
        resume: go on with what is there.
        device: "auto", "cpu", "cuda" ...

    Returns:
        `folds`, `network`, `parameters`, `imagenet`, `seed`, `train` (folders and counts); `out_of_fold`, the scores of
        all pairs, each seen once; `mean` and `sd` (n - 1) over folds of each figure; `per_fold`, for each `fold`, its
        `step`, `stopped`, `val`, `held_out`, `test` and `synthetic` (pairs trained on); `test`, {set: {mean, sd}} over
        the networks; and with synthetic pairs `synthetic` {pairs, unknown, note}.

    Raises:
        InputError: see `segment.segment` and `data.folds.draw_folds`.
    """
    inputs = {**material.inputs(), "command": COMMAND, "--folds": count}
    claim = Claim(out, config, training.DEPENDS, inputs, resume)
    if (out / SUMMARY).exists():
        return read_json(out / SUMMARY, dict[str, Any])
    begun = time.monotonic()
    folds = draw_folds(material.real, count, config.segment.seed)
    parts, unknown = _parts(material, folds, out, config)
    if material.made:
        notify(f"--synthetic with --folds: {WARNING}{_unknown(unknown, len(material.made))}")
    claim.write()
    if claim.first:
        write_json(out / FOLDS, {f"fold-{i}": [pair.name for pair in fold] for i, fold in enumerate(folds)})
    results = [
        training.run(part, out / f"fold-{i}", config, resume=True, device=device) for i, part in enumerate(parts)
    ]
    with PartialState().main_process_first():  # the other processes wait, then read what the first one wrote
        if not (out / SUMMARY).exists():
            _write_scores(out, folds)
            summary = _summary(material, results, unknown)
            times = {"all folds, in this call": time.monotonic() - begun}
            _write_page(out, folds, summary, config, times)
            write_json(out / SUMMARY, summary)
    return read_json(out / SUMMARY, dict[str, Any])


def _parts(material: Material, folds: list[list[Pair]], out: Path, config: Config) -> tuple[list[Material], int]:
    """What each fold's run works with; and how many synthetic pairs name no real pair that they come from."""
    settings, parts, unknown = config.segment, [], 0
    for i, held in enumerate(folds):
        rest = [pair for j, fold in enumerate(folds) if j != i for pair in fold]
        real, validation = share_apart(material.folder, rest, settings.validation, settings.seed)
        made, lost = apart_from(material.made, held, rest)
        unknown = max(unknown, lost)
        fold = Fold(i, len(folds), held, out / OUT_OF_FOLD / "masks")
        parts.append(replace(material, real=real, validation=validation, made=made, fold=fold))
    return parts, unknown


def _unknown(count: int, of: int) -> str:
    return f"; of {count} of {of} nobody can tell, since they name none of these pairs" if count else ""


def _write_scores(out: Path, folds: Sequence[Sequence[Pair]]) -> None:
    """One table of all pairs, in the order of the folds."""
    rows: list[list[Any]] = []
    header: list[str] = []
    for i, fold in enumerate(folds):
        scores = read_csv(out / f"fold-{i}" / HELD, ["name", "dice", "iou"])
        found = Findings.load(out / f"fold-{i}" / FINDINGS)
        header = ["name", "fold", "group", "lesion_share", "marked_share", *list(scores[0])[1:]]
        for pair, row, lesion, seen in zip(fold, scores, found.truth, found.seen, strict=True):
            shares = (f"{lesion:.6f}", f"{seen:.6f}")
            rows.append([pair.name, i, pair.group, *shares, *(value for key, value in row.items() if key != "name")])
    write_text(out / OUT_OF_FOLD / "scores.csv", to_csv(header, rows))


def _summary(material: Material, results: Sequence[dict[str, Any]], unknown: int) -> dict[str, Any]:
    first = results[0]
    held = [{name: value for name, value in result["fold"].items() if name in _figures(result)} for result in results]
    # the greatest of a curve is of the curve averaged over all images, not a mean of folds
    whole = {name: value for name, value in over(held)[1].items() if not name.startswith("max")}
    counts = {name: sum(int(row.get(name, 0)) for row in held) for name in COUNTS}
    found: dict[str, Any] = {
        "folds": len(results),
        **{name: first[name] for name in ("network", "parameters", "imagenet", "seed")},
        "train": {**material.counts, "synthetic_share": max(row["train"]["synthetic_share"] for row in results)},
        "out_of_fold": {**whole, **{name: count for name, count in counts.items() if count}},
        **_over(held),
        "per_fold": [
            {
                "fold": i,
                **{name: result[name] for name in ("step", "stopped", "val", "test")},
                "held_out": row,
                "synthetic": result["train"]["synthetic"],
            }
            for i, (result, row) in enumerate(zip(results, held, strict=True))
        ],
        "test": {name: _over([result["test"][name] for result in results]) for name in first["test"]},
    }
    if material.made:
        note = WARNING + _unknown(unknown, len(material.made))
        found["synthetic"] = {"pairs": len(material.made), "unknown": unknown, "note": note}
    return found


def _figures(result: dict[str, Any]) -> list[str]:
    """Names of the scores of a fold."""
    others = ("index", "of", "calibration")
    return [name for name, value in result["fold"].items() if name not in others and isinstance(value, int | float)]


def _over(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (n - 1) over folds of each figure."""
    names = [name for name, value in rows[0].items() if name not in COUNTS and isinstance(value, int | float)]
    columns = {name: [float(row[name]) for row in rows] for name in names if all(name in row for row in rows)}
    return {
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "sd": {name: statistics.stdev(values) for name, values in columns.items()},
    }


def _write_page(
    out: Path, folds: Sequence[Sequence[Pair]], summary: dict[str, Any], config: Config, times: dict[str, float]
) -> None:
    pairs = [pair for fold in folds for pair in fold]
    scores = read_csv(out / OUT_OF_FOLD / "scores.csv", ["dice", "iou"])
    found = Findings()
    for i in range(len(folds)):
        found.join(Findings.load(out / f"fold-{i}" / FINDINGS))
    dice, iou = (np.array([float(row[name]) for row in scores]) for name in ("dice", "iou"))
    names = [pair.name for pair in pairs]
    tiles = partial(_tiles, out, pairs, config)
    shown = page.Shown(
        "out-of-fold images", names, dice, iou, found, tiles, f"{OUT_OF_FOLD}/scores.csv", class_names(config.data)
    )
    rows = [
        [
            f"fold {row['fold']}",
            str(row["held_out"]["count"]),
            *(f"{100 * row['held_out'][name]:.1f}" for name in ("mDice", "mIoU")),
            str(row["step"]),
        ]
        for row in summary["per_fold"]
    ]
    spread = [page.spread(summary["mean"][name], summary["sd"][name]) for name in ("mDice", "mIoU")]
    tables = [
        Table(
            ["", "images", "Dice, %", "IoU, %", "step"],
            [*rows, ["mean", "", *spread, ""]],
            "± is the standard deviation over folds.",
            title="By fold",
        )
    ]
    for name, spreads in summary["test"].items():
        cells = [page.spread(spreads["mean"][each], spreads["sd"][each]) for each in ("mDice", "mIoU")]
        tables.append(
            Table(
                ["", "Dice, %", "IoU, %"],
                [[name, *cells]],
                "Mean ± standard deviation over the networks of the folds.",
                title=f"Test set {name}",
            )
        )
    logs = {f"fold {i}": out / f"fold-{i}" / "log.jsonl" for i in range(len(folds))}
    note = f"Each image was seen by one of {len(folds)} networks that had not met it, nor its group. "
    note += f"Over folds the mean Dice is {spread[0]} %. "
    note += "Synthetic pairs: " + summary["synthetic"]["note"] + "." if "synthetic" in summary else ""
    title = f"Segmentation by {summary['network']}, {len(folds)} folds"
    settings = page.settings_rows(summary, config, times)
    page.write(out / "report.html", title, note, [shown], Curves(out, logs).draw(), tables, settings)


def _tiles(out: Path, pairs: Sequence[Pair], config: Config, chosen: Sequence[int]) -> list[NDArray[np.uint8]]:
    size, tiles = config.segment.resolution, []
    for i in chosen:
        image, mask = pairs[i].squared(size)
        label = read_label(out / OUT_OF_FOLD / "masks" / f"{pairs[i].name}.png", mask.dtype != np.bool_)
        tiles.append(pictures.outlines(image, mask, square(label, size, config.data.fit)))
    return tiles
