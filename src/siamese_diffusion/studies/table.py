"""The study's table: means, spreads and paired differences to `real` and to an arm of choice; Markdown, CSV, LaTeX,
JSON.

A difference pairs runs of one segmentation seed: same real pairs, same initial weights, same number of steps. Its
interval is Student's t over seeds. It covers the spread between segmentation seeds, and between trainings of the
generator only where each has a diffusion seed of its own; not the choice of the training pairs or of the test images.
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from siamese_diffusion.differences import paired, shown
from siamese_diffusion.files import to_csv, write_json, write_text
from siamese_diffusion.segmentation.figures import COUNTS, HEALTHY
from siamese_diffusion.studies.plan import Plan, Run
from siamese_diffusion.studies.schema import StudyFile
from siamese_diffusion.studies.synthetic import Row, over_trainings, set_tables, synthetic_sets

Results = list[tuple[Run, dict[str, Any]]]
"""Runs with what each returned."""

OVER_SETS = ("mean", "weighted")
"""Rows over several test sets: each set counts once, or each image."""


def collect(plan: Plan) -> list[Row]:
    """A row for every data set, number of pairs, network, test set and arm of which a run is done.

    A row holds `data`, `pairs`, `network`, `test`, `images` (of the test set; None over several), `arm`, `kind`,
    `family`, `ratio`, `min_fit`, `synthetic` (numbers of synthetic pairs), `seeds`, `diffusion_seeds`, `steps`, and
    `folds` and `runs`, `leaks` (whether a generator may have seen held-out images), and `metrics`: by name, `mean`,
    `sd` (None for one run), `values` by seed (and fold), and `paired` differences: `difference` to the real arm, and
    `against` the arm that the study names (None for that arm itself, for `real`, and where no seed has both).
    """
    groups: dict[tuple[str, int, str], dict[str, Results]] = {}
    for run in plan.runs:
        if run.stage.done:
            arms = groups.setdefault((run.cell.data, run.cell.count, run.network), {})
            arms.setdefault(run.arm.name, []).append((run, run.stage.result))
    order = [arm.name for arm in plan.study.arms]
    rows = []
    for arms in groups.values():
        base, against = arms.get(plan.study.real.name, []), arms.get(plan.study.file.against or "", [])
        tests = list(dict.fromkeys(name for runs in arms.values() for _, result in runs for name in _tested(result)))
        for test in tests:
            for name in sorted(arms, key=order.index):
                rows.append(_row(test, arms[name], base, against, plan.study.file.confidence))
    return rows


def write_tables(plan: Plan, out: Path) -> list[Row]:
    """Write `table.md`, `table.csv`, `table.tex` and `table.json` of the runs that are done; returns the rows."""
    rows = collect(plan)
    write_text(out / "table.md", markdown(plan, rows))
    write_text(out / "table.csv", _csv(rows))
    write_text(out / "table.tex", _latex(rows, plan.study.file))
    runs = [
        {
            "data": run.cell.data,
            "pairs": run.cell.count,
            "network": run.network,
            "arm": run.arm.name,
            "seed": run.seed,
            "fold": run.cell.fold,
            "diffusion_seed": run.diffusion_seed,
            "done": run.stage.done,
            "folder": str(run.stage.folder.relative_to(plan.root)),
        }
        for run in plan.runs
    ]
    file = plan.study.file
    summary = {"title": file.title, "confidence": file.confidence, "against": file.against, "rows": rows}
    made = synthetic_sets(plan)
    trainings = over_trainings(made, file.confidence)
    write_json(out / "table.json", {**summary, "synthetic": made, "over_trainings": trainings, "runs": runs})
    return rows


def markdown(plan: Plan, rows: list[Row]) -> str:
    """The table as Markdown, a section for each data set and network, and what is known of the synthetic sets."""
    done = sum(run.stage.done for run in plan.runs)
    said = [plan.study.file.note, ""] if plan.study.file.note else []
    lines = [
        f"# {_plain(plan.study.file.title)}",
        "",
        *said,
        f"{done} of {len(plan.runs)} segmentation runs are done.",
        "",
    ]
    for (data, network), part in by_network(rows).items():
        header, body = cells(part, plan.study.file)
        lines += [f"## {_plain(f'{data}, {network}')}", "", _line(header), "|" + "---|" * len(header)]
        lines += [*(_line(row) for row in body), "", _plain(note(part, plan.study.file)), ""]
    for title, text, header, body in set_tables(synthetic_sets(plan), plan.study.file):
        lines += [
            f"## {title}",
            "",
            text,
            "",
            _line(header),
            "|" + "---|" * len(header),
            *(_line(row) for row in body),
            "",
        ]
    return "\n".join(lines)


def by_network(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by data set and network."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row["data"], row["network"]), []).append(row)
    return parts


def overall(rows: list[Row]) -> list[Row]:
    """Of the rows of a data set and network, those that stand for all test sets: of the only one, or of their mean."""
    alone = len({row["test"] for row in rows}) == 1
    return [row for row in rows if alone or row["test"] == OVER_SETS[0]]


def cells(rows: list[Row], file: StudyFile) -> tuple[list[str], list[list[str]]]:
    """Header and text of the table: figures times 100, mean and standard deviation, differences and their intervals."""
    compared = [("difference", "real"), *([("against", file.against)] if file.against else [])]
    several = len({row["test"] for row in rows}) > 1  # one alone is named in the note
    header = ["arm", "real pairs", "synthetic", *(["test set"] if several else [])]
    wanted = [*file.metrics, *(name for name in HEALTHY if name not in file.metrics)]  # seen wherever there are some
    named = [name for name in wanted if any(name in row["metrics"] for row in rows)]
    for name in named:
        header += [name, *(f"{name} - {other}" for _, other in compared)]
    body = []
    for row in rows:
        line = [row["arm"], str(row["pairs"]), _range(row["synthetic"]), *([row["test"]] if several else [])]
        for name in named:
            figures = row["metrics"].get(name)
            line.append(_spread(figures) if figures else "")
            line += [shown(figures[key]) if figures else "" for key, _ in compared]
        body.append(line)
    counts = [row["runs"] for row in rows]
    if len(set(counts)) > 1:  # a study at work; else the note below the table says it once
        header.append("runs" if any(row["folds"] for row in rows) else "seeds")
        for line, count in zip(body, counts, strict=True):
            line.append(str(count))
    return header, body


def note(rows: list[Row], file: StudyFile) -> str:
    """What the figures are, on which test set if there is one, and over which seeds."""
    tests = {row["test"] for row in rows}
    images = f", {rows[0]['images']} images" if rows[0]["images"] else ""
    where = f"Test set: {min(tests)}{images}. " if len(tests) == 1 else ""
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    diffusion = sorted({seed for row in rows for seed in row["diffusion_seeds"]})
    steps = sorted({step for row in rows for step in row["steps"]})
    took = f"{steps[0]} optimisation steps in every run" if len(steps) == 1 else f"steps DIFFER between runs: {steps}"
    to = f"differences to real and to {file.against}" if file.against else "difference to real"
    folds = max((len(row["folds"]) for row in rows), default=0)
    if folds:
        over = f"mean ± standard deviation over {folds} folds, each held out once, and segmentation seeds "
        over += f"({_list(seeds)}), {to} of the same fold and seed [{100 * file.confidence:g} % t interval]"
    elif len(seeds) > 1:
        over = f"mean ± standard deviation over segmentation seeds ({_list(seeds)}), {to} of the same seed "
        over += f"[{100 * file.confidence:g} % t interval]"
    else:
        over = f"of segmentation seed {_list(seeds)} alone, and {to}"
    if any(name in row["metrics"] for row in rows for name in HEALTHY):
        where += (
            "mDice and mIoU: over images with a lesion. Of healthy images, specificity: the share in which nothing is "
            "marked; healthy_area: the mean share of the image that is. "
        )
    leaking = list(dict.fromkeys(row["arm"] for row in rows if row["leaks"]))
    if leaking:
        where += f"May have seen held-out images through its backbone: {', '.join(leaking)}. "
    return f"{where}Figures x 100: {over}. Diffusion seeds: {_list(diffusion) or 'none'}. {took}."


def _row(test: str, runs: Results, base: Results, against: Results, confidence: float) -> Row:
    arm, cell = runs[0][0].arm, runs[0][0].cell
    reached = _by_turn(test, runs)
    others = {"difference": base, "against": against}
    metrics: dict[str, Any] = {}
    for name in dict.fromkeys(key for figures in reached.values() for key in figures if key not in COUNTS):
        values = {turn: figures[name] for turn, figures in reached.items() if name in figures}
        metrics[name] = {
            "mean": statistics.fmean(values.values()),
            "sd": statistics.stdev(values.values()) if len(values) > 1 else None,
            "values": {_named(turn): value for turn, value in values.items()},
        }
        for key, other in others.items():
            found = arm.synthetic and other and other[0][0].arm != arm
            metrics[name][key] = _paired(name, values, _by_turn(test, other), confidence) if found else None
    return {
        "data": cell.data,
        "pairs": cell.count,
        "network": runs[0][0].network,
        "test": test,
        "images": cell.whole if cell.fold is not None else next(iter(reached.values())).get("count"),
        "arm": arm.name,
        "kind": arm.kind,
        "family": arm.family,
        "ratio": arm.ratio,
        "min_fit": arm.min_fit,
        "synthetic": sorted({result["train"]["synthetic"] for _, result in runs}),
        "seeds": list(dict.fromkeys(run.seed for run, _ in runs)),
        "runs": len(runs),
        "folds": sorted({run.cell.fold for run, _ in runs if run.cell.fold is not None}),
        "leaks": arm.synthetic and arm.kind != "copy-paste" and cell.leaks,
        "diffusion_seeds": sorted({run.diffusion_seed for run, _ in runs if run.diffusion_seed is not None}),
        "steps": sorted({result["steps"] for _, result in runs}),
        "metrics": metrics,
    }


Turn = tuple[int, int | None]
"""What runs of several arms have in common: the segmentation seed and the fold."""


def _by_turn(test: str, runs: Results) -> dict[Turn, dict[str, float]]:
    return {(run.seed, run.cell.fold): _tested(result).get(test, {}) for run, result in runs}


def _named(turn: Turn) -> str:
    return str(turn[0]) if turn[1] is None else f"{turn[0]}, fold {turn[1]}"


def _paired(
    name: str, values: dict[Turn, float], others: dict[Turn, dict[str, float]], confidence: float
) -> dict[str, Any] | None:
    common = [turn for turn in values if name in others.get(turn, {})]
    if not common:
        return None
    return paired([values[s] for s in common], [others[s][name] for s in common], confidence) | {
        "seeds": [_named(turn) if turn[1] is not None else turn[0] for turn in common]
    }


def _tested(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    sets: dict[str, dict[str, Any]] = dict(result["test"])
    if len(sets) > 1:
        sets.update({name: result[name] for name in OVER_SETS if result.get(name)})
    return {
        name: {key: value for key, value in figures.items() if isinstance(value, int | float)}
        for name, figures in sets.items()
    }


def _csv(rows: list[Row]) -> str:
    keys = (
        "data",
        "pairs",
        "network",
        "test",
        "arm",
        "kind",
        "ratio",
        "min_fit",
        "synthetic",
        "seeds",
        "diffusion_seeds",
    )
    figures = ("mean", "sd", "difference", "difference_sd", "low", "high", "n")
    compared = ("against", "against_sd", "against_low", "against_high", "against_n")
    lines = []
    for row in rows:
        for name, metric in row["metrics"].items():
            values = [metric["mean"], metric["sd"]]
            for other in ("difference", "against"):
                found = metric[other] or {}
                values += [found.get(key) for key in ("mean", "sd", "low", "high", "n")]
            fixed = [_list(row[key]) if isinstance(row[key], list) else row[key] for key in keys]
            rounded = [f"{value:.6f}" if isinstance(value, float) else value for value in values]
            lines.append([*fixed, _list(row["steps"]), name, *rounded])
    return to_csv([*keys, "steps", "metric", *figures, *compared], lines)


def _latex(rows: list[Row], file: StudyFile) -> str:
    """One `tabular` (booktabs) for each data set and network."""
    parts = []
    for (data, network), part in by_network(rows).items():
        header, body = cells(part, file)
        lines = [
            " ".join(f"% {data}, {network}. {note(part, file)}".split()),
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(_tex(cell) for cell in header) + r" \\",
        ]
        previous = None
        for row, line in zip(part, body, strict=True):
            lines += [r"\midrule"] if (row["pairs"], row["test"]) != previous else []
            lines.append(" & ".join(_tex(cell) for cell in line) + r" \\")
            previous = (row["pairs"], row["test"])
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]))
    return "\n".join(parts)


_TEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%_#${}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def _tex(text: str) -> str:
    """A cell as LaTeX shows it, whatever an arm, a data set or a test set is called."""
    escaped = re.sub(r"(^|[\s\[])-(?=\d)", r"\1$-$", text.translate(_TEX).replace("±", r"$\pm$").replace(" - ", " -- "))
    return (
        "{}" + escaped if escaped.startswith(("[", "*")) else escaped
    )  # after a line break these would be its argument


_MARKDOWN = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_<>|#~&"})


def _plain(text: str) -> str:
    """Text as Markdown shows it, in one line: a name is neither a table, nor a link, nor HTML."""
    return " ".join(text.translate(_MARKDOWN).replace("](", "]\\(").split())


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, row)) + " |"


def _spread(figures: dict[str, Any]) -> str:
    mean = f"{100 * figures['mean']:.1f}"
    return mean if figures["sd"] is None else f"{mean} ± {100 * figures['sd']:.1f}"


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _list(values: Iterable[object]) -> str:
    return " ".join(str(value) for value in values)
