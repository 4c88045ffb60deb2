"""The page and the lines of `evaluate --masks` and `train-masks`: drawn masks beside real ones, and how they differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion import pictures
from siamese_diffusion.data.classes import shown_colours
from siamese_diffusion.data.label_maps import Labels
from siamese_diffusion.evaluation.features import FLIP_NAMES, FLIPS
from siamese_diffusion.evaluation.metrics.masks import STATISTICS, Values, describe
from siamese_diffusion.files import write_whole
from siamese_diffusion.report import Figure, Section, Table, Verdict, histogram, labelled_rows, percent, write_report

COLUMNS = 10
SHOWN = 64
"""Pixels a side of the masks on the page."""


class MaskSets(NamedTuple):
    """Label maps, uint8 (n, h, w) each."""

    drawn: Labels
    real: Labels
    """What the drawn masks were learned from."""
    held_out: Labels
    """Other real masks; there may be none."""

    def with_lesions(self) -> "MaskSets":
        """The same without empty masks."""
        return MaskSets(*(labels[labels.any((1, 2))] for labels in self))


def write(
    path: Path,
    metrics: Mapping[str, Any],
    sets: MaskSets,
    names: Mapping[int, str] | None = None,
    verdicts: Sequence[Verdict] = (),
    made_by: str = "evaluate --masks",
) -> None:
    """Write the page.

    Args:
        path: of the page.
        metrics: what `masks_report.measure` returns, and `protocol`.
        sets: that it was given.
        names: of the classes by their value, where there are several.
        verdicts: more of them, below the one of the metrics.
        made_by: the command.
    """
    lesions, count = sets.with_lesions(), max(1, len(names or {}))
    sections = [
        _looks(lesions, count),
        _tests(metrics, lesions, names),
        _copies(metrics["copies"], lesions, count),
        _how(metrics),
    ]
    write_report(
        path,
        "Drawn masks: are they like real ones, and new?",
        _lead(metrics),
        sections,
        [Verdict(**metrics["verdict"]), *verdicts],
        made_by,
    )


def render(metrics: Mapping[str, Any]) -> str:
    """The verdict and the figures behind it, a line each."""
    found, counts = metrics["verdict"], metrics["counts"]
    lines = [
        f"{found['question']} {found['word']}. {found['because']}",
        f"masks: {counts['drawn']} drawn, {counts['real']} learned from, {counts['held_out']} held out",
    ]
    against = "training" if metrics["held_out"] is None else "held_out"
    for name, test in metrics[against].items():
        lines.append(
            f"{name}: drawn {test['drawn']:.4f}, {against.replace('_', '-')} {test['real']:.4f}, difference "
            f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f}), p {test['p']:.4f}"
        )
    return "\n".join(lines)


def painted(labels: Labels, classes: int, size: int = SHOWN) -> list[NDArray[np.uint8]]:
    """Label maps (n, h, w) as pictures (size, size, 3), in the colours of hints: of one class white."""
    colours = shown_colours(classes)
    rows = np.arange(size) * labels.shape[1] // size
    columns = np.arange(size) * labels.shape[2] // size
    return [colours[one[rows][:, columns]] for one in labels]


def save_grid(labels: Labels, classes: int, path: Path) -> None:
    """A PNG of label maps (n, h, w) of so many classes, eight in a row."""
    tiles = painted(labels, classes)
    picture = pictures.grid([tiles[i : i + 8] for i in range(0, len(tiles), 8)])
    write_whole(path, picture.save)


def _lead(metrics: Mapping[str, Any]) -> str:
    counts, empty = metrics["counts"], metrics["empty"]
    lead = f"{counts['drawn']} drawn masks, {counts['real']} that they were learned from, {counts['held_out']} others."
    left = [f"{count} {name.replace('_', '-')}" for name, count in empty.items() if count]
    return lead + (f" Empty masks are left out: {', '.join(left)}." if left else "")


def _looks(sets: MaskSets, classes: int) -> Section:
    rows: dict[str, list[NDArray[np.uint8]]] = {}
    blank = np.full((SHOWN, SHOWN, 3), 200, np.uint8)
    for name, labels in zip(("drawn", "learned from", "held out"), sets, strict=True):
        if not len(labels):
            continue
        chosen = np.random.default_rng(0).permutation(len(labels))[: 2 * COLUMNS]
        tiles = painted(labels[chosen], classes)
        tiles += [blank] * (2 * COLUMNS - len(tiles))
        rows |= {name: tiles[:COLUMNS], f"{name} ": tiles[COLUMNS:]}
    text = "Could you tell the drawn ones from the others? Look for ragged outlines, specks, and lesions in odd places."
    return Section("Do they look alike?", text, figures=[Figure(labelled_rows(rows, 0.85), "Chosen at random.")])


def _tests(metrics: Mapping[str, Any], sets: MaskSets, names: Mapping[int, str] | None) -> Section:
    kinds = {"held_out": "held-out masks", "training": "training masks"}
    tables = [
        Table(
            ["", "drawn", "real", "difference", "95 % interval", "largest distance", "p", "what it is"],
            [
                [
                    name,
                    f"{test['drawn']:.3f}",
                    f"{test['real']:.3f}",
                    f"{test['difference']:+.3f}",
                    f"{test['low']:+.3f} to {test['high']:+.3f}",
                    f"{test['distance']:.3f}",
                    f"{test['p']:.4f}",
                    STATISTICS.get(name.partition(" of ")[0], ""),
                ]
                for name, test in metrics[kind].items()
            ],
            title=f"Against {title}",
            words=(7,),
        )
        for kind, title in kinds.items()
        if metrics[kind] is not None
    ]
    described = {
        name: describe(labels, names)
        for name, labels in zip(("drawn", "learned from", "held out"), sets, strict=True)
        if len(labels)
    }
    figures = [_histogram(statistic, described) for statistic in described["drawn"]]
    return Section(
        "In what do they differ?",
        "Means of at most 400 masks of each kind. p is how often two sets that were drawn from one would lie as far "
        "apart in their distribution (Kolmogorov and Smirnov, by permutation); the interval is Welch's.",
        figures=figures,
        tables=tables,
    )


def _histogram(statistic: str, described: Mapping[str, Mapping[str, Values]]) -> Figure:
    series = {name: values[statistic] for name, values in described.items() if len(values.get(statistic, ()))}
    return Figure(histogram(series, statistic), f"{statistic}: {STATISTICS.get(statistic.partition(' of ')[0], '')}.")


def _copies(copies: Mapping[str, Any], sets: MaskSets, classes: int) -> Section:
    rows = copies["nearest"]
    drawn = painted(sets.drawn[[row["drawn"] for row in rows]], classes)
    flipped = [np.flip(sets.real[row["real"]], FLIPS[FLIP_NAMES.index(row["flip"])]) for row in rows]
    real = painted(np.stack(flipped), classes)
    base = copies["measured_on"]
    text = (
        f"A drawn mask is a near copy where its IoU with a training mask, flipped or not, is above "
        f"{copies['threshold']:.3f}: {percent(copies['target'])} % of the training masks are as near to another one. "
        f"So are {copies['flagged']} drawn masks, {percent(copies['share'])} % ({percent(copies['low'])} to "
        f"{percent(copies['high'])} %), and {percent(copies['false_alarm_rate'])} % of {base['count']} "
        f"{base['masks']} masks, which are no copies."
    )
    pictures = labelled_rows({"drawn": drawn, "nearest real": real}, 0.85)
    caption = "The drawn masks nearest to training masks; IoU " + ", ".join(f"{row['iou']:.2f}" for row in rows) + "."
    return Section("Are they new?", text, figures=[Figure(pictures, caption)])


def _how(metrics: Mapping[str, Any]) -> Section:
    diversity = metrics["diversity"]
    rows = [
        ["diversity, mean of 1 - IoU of two masks", f"drawn {diversity['drawn']:.3f}, real {diversity['real']:.3f}"],
        *([name.replace("_", " "), str(value)] for name, value in metrics["protocol"].items()),
    ]
    return Section("How it was measured", "", tables=[Table(["", ""], rows, words=(1,))])
