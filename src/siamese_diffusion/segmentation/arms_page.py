"""The page of a comparison of arms, `report.html`: the answer, what it rests on, and where the arms differ."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion import pictures
from siamese_diffusion.config import Config
from siamese_diffusion.data.classes import class_names, legend
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.differences import shown
from siamese_diffusion.report import Figure, Section, Table, Verdict, percent, write_report
from siamese_diffusion.segmentation import improvement, page
from siamese_diffusion.segmentation.curves import Curves
from siamese_diffusion.segmentation.improvement import Outcome
from siamese_diffusion.segmentation.material import Material
from siamese_diffusion.segmentation.trained import load_network

NAMES = {"real": "real pairs alone", "mixed": "real and synthetic pairs"}
"""Of arms, for readers."""

SHOWN = ("mDice", "mIoU", "specificity", "healthy_area")
"""Figures of the page; all of them are in `arms.json`."""

COLUMNS = 6


def write(
    out: Path,
    summary: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    material: Material,
    config: Config,
    seconds: float,
) -> None:
    """Write `report.html` and `curves.png`."""
    answer = summary.get("verdict")
    verdicts = [] if answer is None else [Verdict(**answer, rule=improvement.RULE)]
    unit = "fold" if summary["folds"] is not None else "training"
    logs = {row["run"]: out / row["run"] / "log.jsonl" for row in summary["runs"]}
    first = next(iter(summary["runs"]))
    settings = page.settings_rows(
        {**summary, "stopped": None, "step": None}, config, {"all of it, in this call": seconds}
    )
    sections = [
        Section(
            "What did each arm reach?",
            f"Mean ± standard deviation over {len(logs) // len(summary['arms'])} {unit}s of each arm. Training i of "
            "either arm begins with the same weights, is chosen and scored by the same pairs and takes as many steps.",
            tables=[Table(*_rows(summary))],
            figures=[Figure(_dots(outcomes), f"A dot is a {unit}; those that belong together are joined.")],
        ),
        *([_changes(out, material, config, outcomes)] if len(outcomes) > 1 and summary["folds"] is None else []),
        Section(
            "How did training go?",
            "The loss on training pairs, and the Dice on the validation pairs, which picks the step that is kept.",
            figures=[Figure(Curves(out, logs).draw(), "Learning curves of all runs.")],
            tables=[_runs(summary)],
        ),
        Section("What was run", "All settings are in config.yaml.", tables=[Table(["", ""], settings, words=(1,))]),
    ]
    title = f"Segmentation by {summary['network']}: " + (
        "with and without synthetic pairs" if answer is not None else f"{len(logs)} {unit}s"
    )
    lead = f"Each run has a page of its own, such as {first['run']}/report.html. The best by its validation pairs is "
    write_report(out / "report.html", title, f"{lead}{summary['best']}.", sections, verdicts, "segment")


def _rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Header, lines and note of the table of figures."""
    arms, changes = summary["arms"], summary.get("difference", {})
    rows = []
    for name, entry in summary["sets"].items():
        for figure in SHOWN:
            if figure not in entry[arms[0]]:
                continue
            cells = [cell(entry[arm].get(figure)) for arm in arms]
            rows.append([f"{name} ({entry['count']})", figure, *cells, *_change(changes, name, figure)])
    for figure in SHOWN:
        if improvement.OVER in changes and figure in changes[improvement.OVER]:
            rows.append([improvement.OVER, figure, *("" for _ in arms), *_change(changes, improvement.OVER, figure)])
    more = ["difference", "over images"] if changes else []
    note = "x 100. "
    if changes:
        note += "Differences with 95 % intervals: over trainings (Student's t, paired), and over images (bootstrap). "
    note += "mDice and mIoU are over images with a lesion; specificity: the share of healthy images left unmarked."
    return ["", "", *(NAMES[arm] for arm in arms), *more], rows, note


def cell(entry: Mapping[str, Any] | None) -> str:
    """Mean and, of several trainings, standard deviation, x 100; empty for None."""
    if entry is None:
        return ""
    return percent(entry["mean"]) if entry["sd"] is None else page.spread(entry["mean"], entry["sd"])


def _change(changes: Mapping[str, Any], name: str, figure: str) -> list[str]:
    if not changes:
        return []
    entry = changes.get(name, {}).get(figure)
    images = None if entry is None else entry.get("images")
    return [shown(entry), "" if images is None else f"{100 * images['low']:+.1f} to {100 * images['high']:+.1f}"]


def _runs(summary: Mapping[str, Any]) -> Table:
    rows = [
        [row["run"], str(row["step"]), percent(row["val"]["mDice"]), *(_test(row, name) for name in summary["sets"])]
        for row in summary["runs"]
    ]
    return Table(["run", "step", "validation Dice, %", *(f"{name}, Dice, %" for name in summary["sets"])], rows)


def _test(row: Mapping[str, Any], name: str) -> str:
    found = row["test"].get(name) or row.get("held_out") or row["val"]
    return percent(found["mDice"]) if "mDice" in found else ""


def _dots(outcomes: Mapping[str, Outcome]) -> bytes:
    """A PNG of the mean Dice of every training, a panel a set, an arm a column, pairs of trainings joined."""
    from matplotlib.figure import Figure as Canvas

    arms = list(outcomes)
    sets = [name for name in outcomes[arms[0]].figures[0] if "mDice" in outcomes[arms[0]].figures[0][name]]
    canvas = Canvas(figsize=(1.2 + 2.6 * max(1, len(sets)), 3.2), dpi=110, layout="constrained")
    axes = canvas.subplots(1, max(1, len(sets)), squeeze=False)[0]
    for axis, name in zip(axes, sets, strict=False):
        values = np.array([[100 * row[name]["mDice"] for row in outcomes[arm].figures] for arm in arms])
        axis.plot(range(len(arms)), values, color="#0b6e6e", marker="o", markersize=5, linewidth=1, alpha=0.7)
        axis.set_xticks(range(len(arms)), [NAMES[arm].replace(" pairs", "\npairs") for arm in arms], fontsize=8)
        axis.set_xlim(-0.5, len(arms) - 0.5)
        axis.set_title(name, fontsize=9)
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean Dice, %", fontsize=9)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return buffer.getvalue()


def _changes(out: Path, material: Material, config: Config, outcomes: Mapping[str, Outcome]) -> Section:
    """The images that gained and lost most, as the first training of each arm sees them."""
    pairs, change = _changed(material, outcomes)
    order = np.argsort(change)
    half = min(COLUMNS, max(1, len(order) // 2))
    networks = [load_network(out / arm / "seed-0") for arm in outcomes]
    figures = []
    for title, chosen in (("gained most", order[::-1][:half]), ("lost most", order[:half])):
        rows = [[_tile(network, pairs[i], config) for i in chosen] for network in networks]
        captions = [[f"{100 * change[i]:+.1f}" for i in chosen], ["" for _ in chosen]]
        grid = pictures.grid(rows, captions, font=16)
        names = ", ".join(pairs[i].name for i in chosen)
        figures.append(
            Figure(pictures.png(grid), f"Those that {title}: above without, below with synthetic pairs. {names}.")
        )
    return Section(
        "Where do they differ?",
        legend(class_names(config.data), "the true mask", "what the first training of an arm marks")
        + " The number is the change of the "
        "Dice, x 100, mean over the trainings.",
        figures=figures,
    )


def _changed(material: Material, outcomes: Mapping[str, Outcome]) -> tuple[list[Pair], NDArray[np.float64]]:
    """The pairs with a lesion of all sets, and by how much their Dice changed."""
    real, mixed = outcomes["real"], outcomes["mixed"]
    pairs: list[Pair] = []
    for name, names in real.names.items():
        known = {pair.name: pair for pair in material.tests.get(name, material.validation)}
        pairs += [known[each] for each in names]
    change = np.concatenate([mixed.images[name]["mDice"] - real.images[name]["mDice"] for name in real.names])
    return pairs, change


def _tile(network: Any, pair: Pair, config: Config) -> NDArray[np.uint8]:
    image, mask = pair.squared(config.segment.resolution)
    return pictures.outlines(image, mask, network.predict(image))
