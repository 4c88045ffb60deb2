"""One HTML page that opens offline: text, tables and pictures inline."""

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import TypedDict

from siamese_diffusion.files import read_jsonl, write_text


@dataclass(frozen=True)
class Figure:
    """A PNG or a JPEG and what it shows."""

    png: bytes
    caption: str

    @property
    def kind(self) -> str:
        """Of the picture, as a page names it."""
        return "image/jpeg" if self.png.startswith(b"\xff\xd8") else "image/png"

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: Sequence[int] = ()
    """Columns of words, which are set from the left; the first always is."""
    title: str = ""


Word = Literal["good", "doubtful", "not good", "cannot tell"]


@dataclass(frozen=True)
class Verdict:
    """The answer to one question."""

    question: str
    word: Word
    because: str
    """The figures that decide, in sentences."""
    rule: str
    """How they decide."""


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    figures: Sequence[Figure] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)
    tiles: Sequence[Figure] = field(default_factory=list)
    """Small pictures with a name each, as many in a row as there is room for."""


def write_report(
    path: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    verdicts: Sequence[Verdict] = (),
    made_by: str = "",
) -> None:
    """Write the page to `path`: the verdicts above all sections; `made_by`, the command's name, is noted in it."""
    from jinja2 import Environment

    template = (resources.files("siamese_diffusion") / "templates" / "report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    made_by = f"siamese-diffusion {made_by}"
    write_text(path, page.render(title=title, lead=lead, verdicts=verdicts, sections=sections, made_by=made_by))


def percent(share: float) -> str:
    """A share as a page shows it, to a tenth of a percent."""
    return f"{100 * share:.1f}"


def labelled_rows(rows: Mapping[str, Sequence[NDArray[np.uint8]]], size: float = 1.25) -> bytes:
    """A PNG of rows of pictures, each row with its name at the left.

    Args:
        rows: name to uint8 (H, W, 3) pictures, as many in every row. Long names are wrapped.
        size: inches a picture.
    """
    from matplotlib.figure import Figure as Canvas
    from matplotlib.textpath import TextPath

    columns = max(len(pictures) for pictures in rows.values())
    names = {name: textwrap.wrap(name, 16) for name in rows}
    widest = max(TextPath((0, 0), line, size=9).get_extents().width for lines in names.values() for line in lines) / 72
    margin = max(1.1, widest + 0.3)  # inches
    canvas = Canvas(figsize=(columns * size + margin, len(rows) * size), dpi=110)
    axes = canvas.subplots(len(rows), columns, squeeze=False)
    for (name, pictures), line in zip(rows.items(), axes, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture)
        text = "\n".join(names[name])
        line[0].text(-0.12, 0.5, text, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    left = margin / (columns * size + margin)
    canvas.subplots_adjust(left=left, right=1, top=1, bottom=0, wspace=0.03, hspace=0.04)
    return _png(canvas)


class _Logged(TypedDict):
    step: int


def loss_curves(
    logs: Mapping[str, Path], names: Sequence[str] | Mapping[str, str], mark: tuple[int, str] | None = None
) -> bytes:
    """A PNG of logged figures over the steps, one panel a figure, two panels a row, one line a run.

    Args:
        logs: name of the run to its `log.jsonl`; a single one may be called "".
        names: figures to draw, or what each is called in the picture; a run that has none of a figure, or only zeros,
            has no line.
        mark: a step to mark by a vertical line, and what it is.
    """
    from matplotlib.figure import Figure as Canvas

    titles = names if isinstance(names, Mapping) else {name: name for name in names}
    columns = min(2, len(titles))
    lines = math.ceil(len(titles) / columns)
    canvas = Canvas(figsize=(4.2 * columns, 2.5 * lines + 0.3), dpi=110, layout="constrained")
    axes = canvas.subplots(lines, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, (name, title) in zip(axes, titles.items(), strict=False):
        for i, (run, path) in enumerate(logs.items()):
            rows = [dict(row) for row in read_jsonl(path, _Logged)]
            points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
            if any(value for _, value in points):
                few = {"marker": "o", "markersize": 3} if len(points) < FEW else {}
                (handles[run],) = axis.plot(*zip(*points, strict=True), color=f"C{i}", linewidth=1.4, **few)
        if mark is not None:
            line = axis.axvline(mark[0], color="black", linewidth=1, linestyle="--")
            handles[mark[1]] = line
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(titles) :]:
        axis.axis("off")
    handles.pop("", None)
    if handles:
        canvas.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return _png(canvas)


def reliability(observed: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> bytes:
    """A PNG of reliability diagrams: how often what was given a probability was so, by set, and how many there were.

    Args:
        observed: name of a set to its bins: mean probability, share that was so, and count; empty bins are left out.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.6, 4.6), dpi=110, layout="constrained")
    axis, below = canvas.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    axis.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--", label="as it should be")
    for i, (name, bins) in enumerate(observed.items()):
        mean, share, count = (np.asarray(values, float) for values in bins)
        there = count > 0
        axis.plot(mean[there], share[there], color=f"C{i}", marker="o", markersize=4, linewidth=1.4, label=name)
        below.plot(mean[there], 100 * count[there] / count.sum(), color=f"C{i}", marker="o", markersize=3, linewidth=1)
    axis.set_ylabel("share that is lesion", fontsize=9)
    below.set_ylabel("% of pixels", fontsize=9)
    below.set_yscale("log")
    below.set_xlabel("probability that the network gives", fontsize=9)
    for each in (axis, below):
        each.tick_params(labelsize=8)
        each.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return _png(canvas)


FEW = 12
"""A line of fewer points has them marked."""


def histogram(series: Mapping[str, ArrayLike], label: str, mark: tuple[float, str] | None = None) -> bytes:
    """A PNG of the distributions of several sets, each as shares of its own size.

    Args:
        series: name to values.
        label: of the axis.
        mark: a value to mark by a vertical line, and what it is.
    """
    from matplotlib.figure import Figure as Canvas

    arrays = {name: np.asarray(values, float) for name, values in series.items()}
    everything = np.concatenate(list(arrays.values()))
    most = min(float(everything.max()), 3 * float(np.quantile(everything, 0.95)))
    edges = np.linspace(min(float(everything.min()), 0), max(most, 1e-9), 31)
    canvas = Canvas(figsize=(6.2, 2.6), dpi=110, layout="constrained")
    axis = canvas.subplots()
    for i, (name, values) in enumerate(arrays.items()):
        weights = np.full(len(values), 100 / len(values))
        clipped = np.clip(values, edges[0], edges[-1])
        axis.hist(clipped, list(edges), weights=weights, alpha=0.55, color=f"C{i}", label=f"{name} ({len(values)})")
    if mark is not None:
        axis.axvline(mark[0], color="black", linewidth=1.2, linestyle="--", label=mark[1])
    axis.set_xlabel(label, fontsize=9)
    axis.set_ylabel("% of the images", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return _png(canvas)


def scatter(series: Mapping[str, NDArray[np.floating[Any]]]) -> bytes:
    """A PNG of points (n, 2), a colour a set; the axes have no unit."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.6, 3.6), dpi=110, layout="constrained")
    axis = canvas.subplots()
    for i, (name, points) in enumerate(series.items()):
        label = f"{name} ({len(points)})"
        axis.scatter(points[:, 0], points[:, 1], s=9, alpha=0.6, linewidths=0, color=f"C{i}", label=label)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("first principal component", fontsize=9)
    axis.set_ylabel("second", fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    return _png(canvas)


def places(points: NDArray[np.floating[Any]]) -> bytes:
    """A PNG of where points (n, 2) lie in the unit square, x to the right and y down: how many in each field."""
    from matplotlib.figure import Figure as Canvas

    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=16, range=((0, 1), (0, 1)))
    canvas = Canvas(figsize=(3.6, 3.1), dpi=110, layout="constrained")
    axis = canvas.subplots()
    shown = axis.imshow(counts, extent=(0, 100, 100, 0), cmap="viridis", vmin=0)
    axis.set_xlabel("across, %", fontsize=9)
    axis.set_ylabel("down, %", fontsize=9)
    axis.tick_params(labelsize=8)
    canvas.colorbar(shown, ax=axis, shrink=0.85).ax.tick_params(labelsize=8)
    return _png(canvas)


def _png(canvas: object) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")  # type: ignore[attr-defined]
    return buffer.getvalue()
