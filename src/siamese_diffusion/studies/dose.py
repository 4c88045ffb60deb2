"""Dose-response curves: a metric against the number of synthetic pairs for each real one, or of real pairs."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from siamese_diffusion.studies.synthetic import Row
from siamese_diffusion.studies.table import by_network, overall

Series = dict[str, list[tuple[float, Row]]]
"""Lines of a panel by name: doses with the rows they belong to, in order."""


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
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    handles: dict[str, Any] = {}
    for axis, (title, series) in zip(axes, panels.items(), strict=False):
        handles |= _draw(axis, series, metric, colours)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(dose.axis, fontsize=9)
        axis.set_ylabel(f"{metric} x 100", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    canvas.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=8)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(axis: Any, series: Series, metric: str, colours: dict[str, str]) -> dict[str, Any]:
    """Lines with error bars on one pair of axes; for the legend, by name."""
    doses = sorted({x for points in series.values() for x, _ in points})
    handles = {}
    for i, (name, points) in enumerate(series.items()):
        apart = 0.012 * (doses[-1] - doses[0]) * (i - (len(series) - 1) / 2)  # bars at one place would hide each other
        figures = [row["metrics"][metric] for _, row in points]
        handles[name] = axis.errorbar(
            [x + apart for x, _ in points],
            [100 * entry["mean"] for entry in figures],
            [100 * (entry["sd"] or 0) for entry in figures],
            color=colours[name],
            marker="o",
            markersize=4,
            linewidth=1.4,
            capsize=2.5,
        )
    axis.set_xticks(doses, [f"{x:g}" for x in doses])
    return handles


def _panels(rows: list[Row], metric: str, dose: Dose) -> dict[str, Series]:
    """Lines by panel; a panel where no line has two doses of its own, real pairs alone not counted, is no curve."""
    panels: dict[str, Series] = {}
    for key, part in by_network(rows).items():
        shown = [row for row in overall(part) if metric in row["metrics"]]
        for name in dict.fromkeys(map(dose.panel, shown)):
            inside = [row for row in shown if dose.panel(row) == name]
            real = [row for row in inside if row["kind"] == "real"] if dose.from_real else []
            series: Series = {}
            for row in inside:
                if row not in real:
                    series.setdefault(dose.series(row), []).append((dose.of(row), row))
            if any(len({x for x, _ in points}) > 1 for points in series.values()):
                drawn = {line: [*((0.0, row) for row in real), *points] for line, points in series.items()}
                drawn = {line: sorted(points, key=lambda point: point[0]) for line, points in drawn.items()}
                panels[", ".join(word for word in (*key, name) if word)] = {
                    line: points for line, points in drawn.items() if len({x for x, _ in points}) > 1
                }
    return panels
