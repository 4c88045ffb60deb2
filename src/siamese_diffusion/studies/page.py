"""The study's pictures and its page: dose-response curves, sample grids, `report.html`."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_diffusion import pictures
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.files import read_json, write_whole
from siamese_diffusion.report import Figure, Section, Table, labelled_rows, write_report
from siamese_diffusion.studies.plan import Made, Plan
from siamese_diffusion.studies.synthetic import Row, set_tables, synthetic_sets
from siamese_diffusion.studies.table import OVER_SETS, by_network, cells, note

SHOWN = 8
"""Pairs of each arm in a sample grid."""

TILE = 192
"""Side of a picture in a sample grid, in pixels."""


def write_pictures(plan: Plan, rows: list[Row], out: Path) -> None:
    """Write the dose-response curves, the sample grids and `report.html` of what is done.

    Args:
        plan: the study.
        rows: of `table.collect`.
        out: gets `dose-ratio.png` and `dose-pairs.png` where there is more than one dose, `grids/DATA-PAIRS.png`, and
            the page.
    """
    curves = []
    for dose in DOSES:
        png = dose_response(rows, plan.study.file.metrics[0], dose)
        if png is not None:
            _write(out / f"dose-{dose.name}.png", png)
            curves.append(Figure(png, f"{dose.caption} Bars: standard deviation over segmentation seeds."))
    grids = []
    for title, name, png in _grids(plan):
        _write(out / "grids" / f"{name}.png", png)
        grids.append(Figure(png, title))
    _page(plan, rows, curves, grids, out / "report.html")


@dataclass(frozen=True)
class Dose:
    """A way to look at the rows: a metric against how much of something."""

    name: str
    axis: str
    caption: str
    of: Callable[[Row], float]
    series: Callable[[Row], str]
    """Which line a row belongs to."""
    panel: Callable[[Row], str]
    """Which part of a data set and network a panel shows."""
    from_real: bool
    """Whether each line starts at the real pairs alone, as dose 0."""


DOSES = (
    Dose(
        "ratio",
        "synthetic per real pairs",
        "The metric against the number of synthetic pairs for each real one; 0 is real pairs alone.",
        of=lambda row: float(row["ratio"]),
        series=lambda row: str(row["family"]),
        panel=lambda row: f"{row['pairs']} pairs",
        from_real=True,
    ),
    Dose(
        "pairs",
        "real training pairs",
        "The metric against the number of real training pairs.",
        of=lambda row: float(row["pairs"]),
        series=lambda row: str(row["arm"]),
        panel=lambda row: "",
        from_real=False,
    ),
)


def dose_response(rows: list[Row], metric: str, dose: Dose) -> bytes | None:
    """A PNG of a metric against a dose, with its standard deviation; None where no line has two doses.

    Args:
        rows: of `table.collect`; of several test sets their mean is shown.
        metric: a figure of the rows.
        dose: what is on the horizontal axis.
    """
    from matplotlib.figure import Figure as Canvas

    panels = _panels(rows, metric, dose)
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    canvas = Canvas(figsize=(3.6 * columns + 1.6, 3.0 * lines), dpi=110, layout="constrained")
    axes = canvas.subplots(lines, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(map(dose.series, rows)))  # of all rows: an arm has one colour in both plots
    handles = {}
    for axis, (title, series) in zip(axes, panels.items(), strict=False):
        doses = sorted({x for points in series.values() for x, _ in points})
        for i, (name, points) in enumerate(series.items()):
            apart = 0.012 * (doses[-1] - doses[0]) * (i - (len(series) - 1) / 2)  # bars at one place would hide each other
            figures = [row["metrics"][metric] for _, row in points]
            handles[name] = axis.errorbar(
                [x + apart for x, _ in points],
                [100 * entry["mean"] for entry in figures],
                [100 * (entry["sd"] or 0) for entry in figures],
                color=f"C{names.index(name)}",
                marker="o",
                markersize=4,
                linewidth=1.4,
                capsize=2.5,
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(dose.axis, fontsize=9)
        axis.set_ylabel(f"{metric} x 100", fontsize=9)
        axis.set_xticks(doses, [f"{x:g}" for x in doses])
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    canvas.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=8)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return buffer.getvalue()


def _panels(rows: list[Row], metric: str, dose: Dose) -> dict[str, dict[str, list[tuple[float, Row]]]]:
    """Lines with at least two doses, by panel."""
    panels: dict[str, dict[str, list[tuple[float, Row]]]] = {}
    for key, part in by_network(rows).items():
        alone = len({row["test"] for row in part}) == 1
        shown = [row for row in part if (alone or row["test"] == OVER_SETS[0]) and metric in row["metrics"]]
        for name in dict.fromkeys(map(dose.panel, shown)):
            inside = [row for row in shown if dose.panel(row) == name]
            start = [(0.0, row) for row in inside if row["kind"] == "real"] if dose.from_real else []
            series: dict[str, list[tuple[float, Row]]] = {}
            for row in inside:
                if not (dose.from_real and row["kind"] == "real"):
                    series.setdefault(dose.series(row), [*start]).append((dose.of(row), row))
            drawn = {line: sorted(points, key=lambda point: point[0]) for line, points in series.items()}
            drawn = {line: points for line, points in drawn.items() if len({x for x, _ in points}) > 1}
            if drawn:
                panels[", ".join(word for word in (*key, name) if word)] = drawn
    return panels


def _grids(plan: Plan) -> list[tuple[str, str, bytes]]:
    """Title, file name and PNG of a grid for each data set and number of pairs."""
    found: dict[tuple[str, int], dict[str, Made]] = {}
    for made in plan.made:
        if (made.chosen.folder / "pairs" / "pairs.jsonl").exists():
            families = found.setdefault((made.cell.data, len(made.cell.real)), {})
            largest = families.setdefault(made.arm.family, made)
            if made.arm.ratio > largest.arm.ratio:
                families[made.arm.family] = made
    grids = []
    for (data, count), families in found.items():
        drawn = {name: DataFolder(made.chosen.folder / "pairs").pairs() for name, made in families.items()}
        rows = {"real": _outlined(next(iter(families.values())).cell.real[:SHOWN])}
        rows.update({name: _outlined(pairs[:SHOWN]) for name, pairs in drawn.items()})
        grids.append((f"{data}, {count} pairs: masks in green.", f"{data}-{count}", labelled_rows(rows)))
    return grids


def _outlined(pairs: Sequence[Pair]) -> list[Pixels]:
    tiles = []
    for pair in pairs:
        tiles.append(pictures.outline(*pair.squared(TILE), pictures.GREEN))
    return tiles


def _page(plan: Plan, rows: list[Row], curves: list[Figure], grids: list[Figure], path: Path) -> None:
    file = plan.study.file
    done = sum(run.stage.done for run in plan.runs)
    tables = []
    for (data, network), part in by_network(rows).items():
        header, body = cells(part, file)
        tables.append(Table(header, _lines(body), note(part, file), title=f"{data}, {network}"))
    sections = [
        Section(
            "Does segmentation improve?",
            "Each arm trains the same network from the same initial weights for the same number of steps; the step is "
            "chosen on validation pairs, never on a test set. A difference is to the run on real pairs alone with the same "
            "seed. An interval that contains 0 is no evidence of a gain.",
            tables=tables,
        )
    ]
    if curves:
        sections.append(Section("How much does it take?", "", figures=curves))
    for title, text, header, body in set_tables(synthetic_sets(plan), file):
        sections.append(Section(title, text, tables=[Table(header, _lines(body))]))
    if grids:
        sections.append(Section("Real and synthetic pairs", "The first pairs of each arm, by name.", figures=grids))
    sections.append(_how(plan))
    lead = f"{done} of {len(plan.runs)} segmentation runs are done. {_gains(rows, file.metrics[0])}"
    write_report(path, file.title, lead.strip(), sections)


def _gains(rows: list[Row], metric: str) -> str:
    """The arms whose interval lies above 0, and those below, of the rows that stand for all test sets."""
    told: dict[str, list[str]] = {"above": [], "below": []}
    compared = 0
    for (data, network), part in by_network(rows).items():
        alone = len({row["test"] for row in part}) == 1
        for row in part:
            difference = row["metrics"].get(metric, {}).get("difference")
            if not difference or difference["low"] is None or not (alone or row["test"] == OVER_SETS[0]):
                continue
            compared += 1
            side = "above" if difference["low"] > 0 else "below" if difference["high"] < 0 else None
            if side:
                told[side].append(f"{row['arm']} ({data}, {row['pairs']} pairs, {network})")
    if not compared:
        return ""
    parts = [f"{side} real: {', '.join(names)}" for side, names in told.items() if names]
    return f"Of {compared} comparisons in {metric}, the interval excludes 0 in {sum(map(len, told.values()))}" + (
        f" ({'; '.join(parts)})." if parts else "."
    )


def _lines(body: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows whose figures stay whole; an arm's name, in the first column, may be broken between words."""
    return [[name.replace("-", "\u2011"), *map(_tight, figures)] for name, *figures in body]


def _tight(cell: str) -> str:
    """Broken by a browser before an interval only: spaces and hyphens that do not break, and a minus before a number."""
    minus = re.sub(r"(^|[\s\[])-(?=\d)", "\\1\u2212", cell)
    return re.sub(r" (?!\[)", "\u00a0", minus).replace("-", "\u2011")


def _how(plan: Plan) -> Section:
    seconds: dict[str, list[float]] = {}
    for stage in plan.stages():
        entry = seconds.setdefault(stage.kind, [])
        if stage.done:
            entry.append(read_json(stage.folder / "done.json")["seconds"])
    counts = {kind: sum(stage.kind == kind for stage in plan.stages()) for kind in seconds}
    body = [[kind, f"{len(s)} / {counts[kind]}", f"{sum(s) / 60:.1f}"] for kind, s in seconds.items()]
    body.append(["all", "", f"{sum(sum(s) for s in seconds.values()) / 60:.1f}"])
    arms: list[list[str]] = []
    for arm in plan.study.arms:
        settings = {f"{section}.{name}": value for section, entries in arm.values.items() for name, value in entries.items()}
        changed = [f"{name} = {value}" for name, value in settings.items() if name != "method.name"]
        changed += [f"min_fit = {arm.min_fit:g}"] if arm.min_fit is not None else []
        changed += [f"oversample = {arm.oversample:g}"] if arm.oversample > 1 else []
        changed += [f"run = {Path(arm.run).name}"] if arm.run is not None else []
        arms.append([_tight(arm.name), _tight(arm.kind), _tight(arm.recipe), f"{arm.ratio:g}", ", ".join(changed)])
    return Section(
        "What was run",
        f"The settings of a stage are in its folder, {plan.root.name}/stages/KIND-KEY/settings.yaml.",
        tables=[
            Table(["arm", "kind", "mask recipe", "synthetic per real", "settings"], arms),
            Table(["stage", "done", "minutes"], body, "Of the attempts that finished; interrupted ones are not counted."),
        ],
    )


def _write(path: Path, png: bytes) -> None:
    def save(temporary: Path) -> Any:
        return temporary.write_bytes(png)

    write_whole(path, save)
