"""Draws mDice against the number of real pairs, one line an arm, from the tables of docs/results/archive/study.md.

    python benchmarks/figures/study_curves.py

writes docs/images/study.svg. Nothing is computed anew: every point is a cell "MEAN ± SPREAD" of a recorded table.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "docs/results/archive/study.md"

PANELS = {
    "Polyps, U-Net": (("## 25 pairs of polyps", 0), ("## 100, 200 and 400 pairs of polyps", 0)),
    "Polyps, SANet": (("## 25 pairs of polyps", 1), ("## 100, 200 and 400 pairs of polyps", 1)),
    "Skin lesions, U-Net": (("## 100, 200 and 400 pairs of skin lesions", 0),),
}
"""By panel the tables it shows: the beginning of their heading, and which of the tables below it."""

ARMS = {
    "real": ("real pairs alone", "#30343b", "o"),
    "copy-paste": ("+ copy-paste", "#a8875a", "s"),
    "mask-only": ("+ mask-only diffusion", "#d1495b", "^"),
    "siamese": ("+ Siamese-Diffusion", "#1f6feb", "D"),
    "adc": ("+ ADC", "#3a9679", "v"),
}
"""By arm its name in the legend, its colour and its marker."""


@dataclass(frozen=True)
class Point:
    pairs: int
    mean: float
    spread: float
    """Standard deviation over trainings."""


Lines = dict[str, list[Point]]
"""By arm its points, by number of real pairs."""


def panels(text: str) -> dict[str, Lines]:
    """The points of every panel, read from the tables.

    Args:
        text: of docs/results/archive/study.md.
    """
    found: dict[str, Lines] = {}
    for panel, sources in PANELS.items():
        lines: Lines = {}
        for heading, number in sources:
            for row in _tables(text, heading)[number]:
                mean, spread = (float(part) for part in row["mDice"].replace("*", "").split("±"))
                lines.setdefault(row["arm"], []).append(Point(int(row["real pairs"]), mean, spread))
        found[panel] = lines
    return found


def _tables(text: str, heading: str) -> list[list[dict[str, str]]]:
    """The tables of a section that have a number of pairs and an mDice."""
    section = re.split(r"(?m)^## ", text[text.index(heading) + 3 :])[0]
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines(True))
        if {"arm", "real pairs", "mDice"} <= {*head}:
            tables.append([dict(zip(head, row, strict=True)) for row in rows])
    return tables


def draw(found: dict[str, Lines], out: Path) -> None:
    """Write the picture as SVG, the same bytes for the same tables."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "study", "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(10.4, 3.9), layout="constrained")
        axes = figure.subplots(1, len(found))
        for axis, (title, lines) in zip(axes, found.items(), strict=True):
            _draw_panel(axis, title, lines)
        axes[0].set_ylabel("mDice on the test list, x 100")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
        figure.savefig(out, format="svg", metadata={"Date": None})


def _draw_panel(axis: Any, title: str, lines: Lines) -> None:
    for arm, points in lines.items():
        name, colour, marker = ARMS[arm]
        pairs = [point.pairs for point in points]
        means = [point.mean for point in points]
        low = [point.mean - point.spread for point in points]
        high = [point.mean + point.spread for point in points]
        axis.fill_between(pairs, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.plot(pairs, means, color=colour, marker=marker, markersize=5, linewidth=1.8, label=name)
    ticks = sorted({point.pairs for points in lines.values() for point in points})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axis.set_xlabel("real pairs")
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/study.svg")
    draw(panels(TABLES.read_text()), parser.parse_args().out)
