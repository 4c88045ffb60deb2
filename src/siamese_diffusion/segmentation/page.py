"""The page of a run of `segment`, `report.html`: what it finds and misses, how it was trained, and on what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion import __version__, pictures
from siamese_diffusion.config import Config
from siamese_diffusion.data.classes import legend
from siamese_diffusion.differences import over_images
from siamese_diffusion.report import Figure, Section, Table, percent, reliability, write_report
from siamese_diffusion.segmentation.findings import Findings

COLUMNS = 6
MOST_ROWS = 50

Tiles = Callable[[Sequence[int]], list[NDArray[np.uint8]]]
"""Indices of images -> each with the outlines of its mask and of what the network sees; see `pictures.outlines`."""


@dataclass(frozen=True)
class Shown:
    """A set of images as the page shows it."""

    name: str
    names: Sequence[str]
    dice: NDArray[np.float64]  # (N,) in [0, 1]
    iou: NDArray[np.float64]
    findings: Findings
    tiles: Tiles
    table: str
    """The file that has all its images."""
    classes: tuple[str, ...] = ()
    """Names, where there are several."""

    @property
    def scored(self) -> NDArray[np.intp]:
        """Places of the images with a lesion, over which Dice and IoU are averaged; of all, where none has one."""
        ill = np.flatnonzero(np.array(self.findings.truth) > 0)
        return ill if len(ill) else np.arange(len(self.dice))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap of the mean Dice over images."""
        return over_images([self.dice[self.scored]])


def write(
    path: Path,
    title: str,
    note: str,
    sets: Sequence[Shown],
    curves: bytes,
    figures: Sequence[Table],
    settings: Sequence[Sequence[str]],
) -> None:
    """Write the page.

    Args:
        path: of the page.
        title: its title.
        note: a sentence that qualifies the figures, at the top; may be empty.
        sets: what was scored; at least one.
        curves: a PNG of the learning curves.
        figures: further tables of scores.
        settings: rows of name and value: what was run.
    """
    sections = [
        _scores(sets, figures),
        *(_images(one) for one in sets),
        _calibration(sets),
        Section(
            "How did training go?",
            "The loss on training pairs should fall and level out. The Dice on validation pairs, 0 to 1, picks the "
            "step that is kept; where it falls while the loss still does, the network learns its training pairs by "
            "heart.",
            figures=[Figure(curves, "Learning curves, as in log.jsonl.")],
        ),
        *(_table(one) for one in sets),
        Section("What was run", "All settings are in config.yaml.", tables=[Table(["", ""], settings, words=(1,))]),
    ]
    write_report(path, title, " ".join([*map(_verdict, sets[:3]), note]).strip(), sections)


def settings_rows(metrics: Mapping[str, Any], config: Config, times: Mapping[str, float]) -> list[list[str]]:
    """What was run: pairs, network, settings that matter most, and the seconds it took."""
    settings, train = config.segment, metrics["train"]
    made = f" and {train['synthetic']} synthetic ones, {percent(train['synthetic_share'])} % of each batch"
    start = "ImageNet weights" if metrics["imagenet"] else "random weights"
    weight = f", lesion weight {settings.lesion_weight:g}" if settings.lesion_weight != 1 else ""
    steps = f"at most {settings.steps}, patience {settings.patience}" if settings.patience else str(settings.steps)
    steps += f", {settings.batch_size} pairs each"
    steps += f"; stopped at {metrics['stopped']}" if metrics.get("stopped") else ""
    steps += f"; the best was {metrics['step']}" if metrics.get("step") else ""
    return [
        ["real pairs", str(train["folder"])],
        ["trained on", f"{train['real']} real pairs{made if train['synthetic'] else ''}"],
        *([["validated on", f"{train['validation']} real pairs"]] if train["validation"] else []),
        ["network", f"{metrics['network']}, {metrics['parameters'] / 1e6:.1f} million parameters, from {start}"],
        ["resolution", f"{settings.resolution} px, data.fit = {config.data.fit}"],
        ["steps", steps],
        ["loss", settings.loss + weight],
        ["optimiser", f"{settings.optimizer}, learning rate {settings.learning_rate:g}, {settings.schedule}"],
        ["augmentation", settings.augmentation],
        ["precision", settings.precision],
        ["seed", str(settings.seed)],
        *([f"time: {name}", duration(seconds)] for name, seconds in times.items()),
        ["program", f"siamese-diffusion {__version__}"],
    ]


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.1f}\u00a0min" if seconds < 6000 else f"{seconds / 3600:.1f}\u00a0h"


def _verdict(one: Shown) -> str:
    """What a reader who reads no further should know of a set."""
    found, healthy = one.findings, len(one.dice) - one.findings.lesions
    low, high = one.interval
    mean = float(one.dice[one.scored].mean())
    told = (
        f"{one.name}, {_count(len(one.dice), 'image')}: a mean Dice of {percent(mean)} % "
        f"(95 % interval {percent(low)} to {percent(high)}). "
    )
    if found.lesions:
        told += f"Of {_count(found.lesions, 'image')} with a lesion it missed {found.missed or 'none'} altogether. "
    if healthy:
        told += f"Of {_count(healthy, 'healthy image')} it marked something in {found.false_alarms or 'none'}. "
    return told.strip()


def _scores(sets: Sequence[Shown], figures: Sequence[Table]) -> Section:
    rows = []
    for one in sets:
        low, high = one.interval
        dice, iou = one.dice[one.scored], one.iou[one.scored]
        rows.append(
            [
                one.name,
                str(len(one.dice)),
                spread(float(dice.mean()), float(dice.std())),
                _tight(f"{percent(low)} to {percent(high)}"),
                percent(float(np.median(dice))),
                percent(float((dice < 0.5).mean())),
                spread(float(iou.mean()), float(iou.std())),
                _tight(f"{one.findings.missed} of {one.findings.lesions}"),
                _tight(f"{one.findings.false_alarms} of {len(one.dice) - one.findings.lesions}"),
            ]
        )
    header = ["", "images", "Dice, %", "95 % interval", "median", "below 50, %", "IoU, %", "missed", "false alarms"]
    return Section(
        "How well does it find lesions?",
        "Dice and IoU measure how far what the network marks and the true mask overlap, 100 is perfect; they are over "
        "the images with a lesion. Missed are "
        "images with a lesion in which nothing was marked; false alarms are healthy images in which something was.",
        tables=[
            Table(
                header,
                rows,
                "± is the standard deviation over images; the interval, of the mean, is a bootstrap over images and "
                "covers neither another training nor another clinic.",
            ),
            *figures,
        ],
    )


def _images(one: Shown) -> Section:
    order = np.argsort(one.dice, kind="stable").tolist()
    ill = [i for i in order if one.findings.truth[i] > 0]
    best = (ill or order)[::-1][: min(COLUMNS, max(1, len(order) // 2))]
    worst = [i for i in order if i not in best][:COLUMNS] or order[:1]
    parts = [part for part in (worst, best) if part]
    numbered = iter(range(1, 1 + sum(map(len, parts))))
    captions, told = [], []
    for part in parts:
        numbers = [next(numbered) for _ in part]
        captions.append([f"{number}: Dice {one.dice[i]:.2f}" for number, i in zip(numbers, part, strict=True)])
        told.append(", ".join(f"{number} {one.names[i]}" for number, i in zip(numbers, part, strict=True)))
    grid = pictures.grid([one.tiles(part) for part in parts], captions, font=16)
    return Section(
        f"The worst and the best images: {one.name}",
        legend(one.classes, "the true mask", "what the network marks")
        + " Look at the worst ones first: are the masks right? "
        "What do these images have in common?",
        figures=[Figure(pictures.png(grid), f"Above, the worst: {told[0]}. Below, the best: {told[-1]}.")],
    )


def _calibration(sets: Sequence[Shown]) -> Section:
    bins = {}
    for one in sets:
        found = one.findings
        count = found.count.clip(min=1)
        bins[one.name] = (found.probability / count, found.lesion / count, found.count)
    rows = [[one.name, *(percent(value) for value in one.findings.calibration.values())] for one in sets]
    return Section(
        "Can its probabilities be trusted?",
        "Of all pixels to which the network gives a probability of, say, 80 %, eighty in a hundred should be lesion. "
        "Below the dashed line it is too sure of itself, above it too careful. The lower panel shows how many pixels "
        "stand behind each point.",
        figures=[Figure(reliability(bins), "Reliability of the pixels, in twenty bins of probability.")],
        tables=[
            Table(
                ["", "calibration error, %", "of pixels from 5 % on, %"],
                rows,
                "Expected calibration error: the mean distance from the dashed line, by pixels. Nearly all pixels are "
                "background that nobody doubts, so the second figure says more.",
            )
        ],
    )


def _table(one: Shown) -> Section:
    order = np.argsort(one.dice, kind="stable")[:MOST_ROWS].tolist()
    found = one.findings
    rows = [
        [one.names[i], *(percent(float(value[i])) for value in (one.dice, one.iou, found.truth, found.seen))]
        for i in order
    ]
    more = f"The {len(rows)} worst of {len(one.dice)}. " if len(rows) < len(one.dice) else ""
    header = ["image", "Dice, %", "IoU, %", "lesion, % of the image", "marked, % of the image"]
    return Section(
        f"Image by image: {one.name}", "", tables=[Table(header, rows, f"{more}All of them, with more: {one.table}.")]
    )


def spread(mean: float, deviation: float) -> str:
    """Mean and standard deviation times 100, on one line."""
    return _tight(f"{percent(mean)} ± {percent(deviation)}")


def _tight(cell: str) -> str:
    return cell.replace(" ", "\u00a0")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
