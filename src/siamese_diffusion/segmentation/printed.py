"""What `segment` prints where it ends: one small table, a line a figure, and what follows from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siamese_diffusion.differences import shown
from siamese_diffusion.report import percent
from siamese_diffusion.segmentation import arms_page, page
from siamese_diffusion.segmentation.figures import COUNTS, METRICS
from siamese_diffusion.segmentation.improvement import OVER

FEW = ("mDice", "mIoU", "specificity")
"""Figures that are printed where not all are asked for."""


def render(result: Mapping[str, Any], out: Path, every: bool = False) -> str:
    """What `segment` returned, for the terminal.

    Args:
        result: of one network, of folds, or of arms.
        out: its folder.
        every: show all figures, those of the polyp papers included.
    """
    if "arms" in result:
        lines = _arms(result, every)
    elif "per_fold" in result:
        lines = _folds(result)
    else:
        lines = _run(result, every)
    return "\n".join([*lines, f"the report: {out / 'report.html'}"])


def _run(result: Mapping[str, Any], every: bool) -> list[str]:
    sets = dict(result["test"])
    if not sets:
        sets = {"validation pairs": result["val"]}
    header = [f"{name} ({entry['count']})" for name, entry in sets.items()]
    columns = list(sets.values())
    if len(sets) > 1:
        header += ["mean", "weighted"]
        columns += [result["mean"], result["weighted"]]
    rows = [
        [name, *(percent(column[name]) if name in column else "" for column in columns)]
        for name in _figures(columns, every)
    ]
    stopped = f", stopped at {result['stopped']}" if result["stopped"] else ""
    told = f"{result['network']}: the best step is {result['step']}{stopped}, by {result['val']['count']} validation "
    return [*table(["x 100", *header], rows), f"{told}pairs (Dice {percent(result['val']['mDice'])} %)"]


def _folds(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"fold {row['fold']}: {row['held_out']['count']} images, Dice {percent(row['held_out']['mDice'])} %, "
        f"step {row['step']}" + (f", stopped at {row['stopped']}" if row["stopped"] else "")
        for row in result["per_fold"]
    ]
    whole, mean, sd = result["out_of_fold"], result["mean"]["mDice"], result["sd"]["mDice"]
    return [
        *lines,
        f"all {whole['count']} images: Dice {percent(whole['mDice'])} %, over folds {page.spread(mean, sd)} %",
    ]


def _arms(result: Mapping[str, Any], every: bool) -> list[str]:
    arms, changes = result["arms"], result.get("difference", {})
    header = [
        "x 100",
        "",
        *(arms_page.NAMES[arm] for arm in arms),
        *(["difference (95 % interval)"] if changes else []),
    ]
    rows = []
    for name, entry in result["sets"].items():
        for figure in _figures([entry[arm] for arm in arms], every):
            cells = [arms_page.cell(entry[arm].get(figure)) for arm in arms]
            last = [shown(changes[name].get(figure))] if changes else []
            rows.append([f"{name} ({entry['count']})", figure, *cells, *last])
    if OVER in changes:
        for figure in _figures([changes[OVER]], every):
            rows.append([OVER, figure, *("" for _ in arms), shown(changes[OVER][figure])])
    number = len(result["runs"]) // len(arms)
    unit = "folds" if result["folds"] else "training" if number == 1 else "trainings"
    lines = table(header, rows)
    share = result["train"]["synthetic_share"]
    if "mixed" in arms:
        train = result["train"]
        lines.append(
            f"{number} {unit} of each arm; {train['real']} real and {train['synthetic']} synthetic pairs, which are "
            f"{percent(share)} % of each batch"
        )
    else:
        lines.append(f"{number} {unit}, mean ± standard deviation")
    if "verdict" in result:
        lines.append(result["verdict"]["because"])
    return [*lines, f"the best run by its validation pairs: {result['best']}"]


def _figures(columns: Sequence[Mapping[str, Any]], every: bool) -> list[str]:
    """Names of the figures to show, of those that any column has."""
    wanted = METRICS if every else FEW
    of_classes = dict.fromkeys(name for column in columns for name in column if name.startswith(("mDice ", "mIoU ")))
    held = [name for name in wanted if name not in COUNTS and any(name in column for column in columns)]
    return held + [name for name in of_classes if every or name.startswith("mDice ")]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, the first set from the left and the others from the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
