"""The study's pictures and its page, `report.html`: what came out, what was drawn, how it was trained, how long it
took."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamese_diffusion.config import build_config, merge
from siamese_diffusion.files import write_whole
from siamese_diffusion.report import Figure, Section, Table, write_report
from siamese_diffusion.studies.curves import EXPLAINED, training_curves
from siamese_diffusion.studies.dose import DOSES, dose_response
from siamese_diffusion.studies.drawn import CAPTION, drawn_grids
from siamese_diffusion.studies.plan import Plan
from siamese_diffusion.studies.schema import StudyFile
from siamese_diffusion.studies.spec import Arm
from siamese_diffusion.studies.synthetic import Row, set_tables, synthetic_sets
from siamese_diffusion.studies.table import by_network, cells, note, overall

FEW = 4
"""So many differences are told one by one in the first lines of the page."""

STAGES_IN_WORDS = {
    "backbone": "train a backbone",
    "train": "train a generator",
    "sample": "draw images for masks",
    "copy-paste": "paste lesions",
    "judge": "train the judge",
    "score": "judge what was drawn",
    "filter": "choose pairs",
    "segment": "train and test a segmentation network",
}
"""What a stage does, by its kind."""


ARMS_IN_WORDS = {
    "real": "real pairs alone",
    "copy-paste": "besides them images into which lesions of others were pasted",
    "mask-only": "besides them what a ControlNet drew that learned from masks alone",
    "siamese": "besides them what Siamese-Diffusion drew, which sees the image too while it learns",
    "adc": "besides them what the authors' follow-up drew, which learns from a teacher that sees the image",
}
"""Which pairs an arm trains on, by its kind."""


def write_pictures(plan: Plan, rows: list[Row], out: Path) -> None:
    """Write the dose-response curves, the pictures of what was drawn, and `report.html`, of what is done.

    Args:
        plan: the study.
        rows: of `table.collect`.
        out: gets `dose-ratio.png` and `dose-pairs.png` where there is more than one dose, `grids/DATA-PAIRS.png`, and
            the page.
    """
    parts = [
        _segmentation(plan, rows),
        _doses(plan, rows, out),
        _drawn(plan, out),
        *_sets(plan),
        _training(plan),
        _how(plan),
    ]
    sections = [part for part in parts if part is not None]
    write_report(out / "report.html", plan.study.file.title, _lead(plan, rows), sections)


def _lead(plan: Plan, rows: list[Row]) -> str:
    """What the page comes to, and what it is worth."""
    file = plan.study.file
    done = sum(run.stage.done for run in plan.runs)
    left = f"{done} of {len(plan.runs)} segmentation runs are done." if done < len(plan.runs) else ""
    return " ".join(part for part in (file.note, left, _gains(rows, file)) if part)


def _gains(rows: list[Row], file: StudyFile) -> str:
    """How the arms differ from real pairs alone, over all test sets; with intervals, only what they tell."""
    metric = file.metrics[0]
    found = [
        (row, row["metrics"][metric]["difference"])
        for part in by_network(rows).values()
        for row in overall(part)
        if row["metrics"].get(metric, {}).get("difference")
    ]
    if any(difference["low"] is not None for _, difference in found):
        return _clear_of_zero([(row, change) for row, change in found if change["low"] is not None], file)
    if not found:
        return ""
    changes = [difference["mean"] for _, difference in found]
    if len(found) <= FEW:
        told = " and ".join(f"{_signed(change['mean'])} points with {row['arm']}" for row, change in found)
    else:
        told = f"{_signed(min(changes))} to {_signed(max(changes))} points in {len(found)} comparisons"
    return f"Against real pairs alone, {metric} changes by {told}: one seed each, a demonstration and not evidence."


def _clear_of_zero(found: list[tuple[Row, dict[str, Any]]], file: StudyFile) -> str:
    """The arms whose interval lies above 0, and those below."""
    told: dict[str, list[str]] = {"above": [], "below": []}
    for row, difference in found:
        side = "above" if difference["low"] > 0 else "below" if difference["high"] < 0 else None
        if side:
            told[side].append(f"{row['arm']} ({row['data']}, {row['pairs']} pairs, {row['network']})")
    parts = "; ".join(f"{side} real: {', '.join(names)}" for side, names in told.items() if names)
    count = sum(map(len, told.values()))
    return (
        f"Of {len(found)} comparisons with real pairs alone, the {100 * file.confidence:g} % interval of the "
        f"difference in {file.metrics[0]} excludes 0 in {count}{f' ({parts})' if parts else ''}; nothing is corrected "
        f"for their number."
    )


def _obedience(sets: list[Row]) -> str:
    """Whether images obey, of a few sets; of many the table says it."""
    judged = [row for row in sets if row["drawn"] is not None]
    if not 0 < len(judged) <= FEW:
        return ""
    fits = " and ".join(f"{100 * row['drawn']:.0f} in {row['arm']}'s images" for row in judged)
    chance, real = (statistics.fmean(row[name] for row in judged) for name in ("shuffled", "judge"))
    return (
        f"A network that has seen real pairs only finds the lesion that was asked for with a Dice of {fits}, "
        f"where chance gives {100 * chance:.0f} and real images {100 * real:.0f}."
    )


def _segmentation(plan: Plan, rows: list[Row]) -> Section:
    file = plan.study.file
    tables = []
    for (data, network), part in by_network(rows).items():
        header, body = cells(part, file)
        tables.append(Table(header, _lines(body), note(part, file), title=f"{data}, {network}"))
    kinds = dict.fromkeys(arm.kind for arm in plan.study.arms)
    told = "; ".join(f"{kind}, {ARMS_IN_WORDS[kind]}" for kind in kinds)
    text = (
        "Every arm trains the same network from the same initial weights for the same number of steps; the step that "
        f"is tested is chosen on validation pairs, never on a test set. What differs is the pairs: {told}. "
        "Dice and IoU measure the overlap of what the network marks with the true mask, m stands for the mean over "
        "test images, and 100 is perfect. A difference is to the run on real pairs alone with the same seed. "
    )
    return Section("Does segmentation improve?", text + _certainty(file), tables=tables)


def _certainty(file: StudyFile) -> str:
    if len(file.seeds.segmentation) > 1:
        return "An interval that contains 0 is no evidence of a gain."
    return "One seed has no interval: seeds often differ by as much as arms do. For a claim, set more of them."


def _doses(plan: Plan, rows: list[Row], out: Path) -> Section | None:
    curves = []
    for dose in DOSES:
        png = dose_response(rows, plan.study.file.metrics[0], dose)
        if png is not None:
            _write(out / f"dose-{dose.name}.png", png)
            curves.append(Figure(png, f"{dose.caption} Bars: standard deviation over segmentation seeds."))
    return Section("How much does it take?", "", figures=curves) if curves else None


def _drawn(plan: Plan, out: Path) -> Section | None:
    grids = drawn_grids(plan)
    for grid in grids:
        _write(out / "grids" / f"{grid.name}.png", grid.png)
    return (
        Section("What was drawn", CAPTION, figures=[Figure(grid.png, grid.title) for grid in grids]) if grids else None
    )


def _sets(plan: Plan) -> list[Section]:
    sets = synthetic_sets(plan)
    tables = set_tables(sets, plan.study.file)
    found = zip([_obedience(sets)] + [""] * len(tables), tables, strict=False)
    return [
        Section(part.title, f"{told} {part.text}".strip(), tables=[Table(part.header, _lines(part.body), words=[1])])
        for told, part in found
    ]


def _training(plan: Plan) -> Section | None:
    figures = training_curves(plan)
    return Section("How training went", EXPLAINED, figures=figures) if figures else None


def _how(plan: Plan) -> Section:
    return Section(
        "What was run, and how long it took",
        f"{_steps(plan)} All settings of a stage are in its folder, {plan.root.name}/stages/KIND-KEY/settings.yaml.",
        tables=[
            Table(
                ["arm", "kind", "mask recipe", "synthetic per real", "settings"],
                [_arm(arm) for arm in plan.study.arms],
                words=[1, 2, 4],
            ),
            Table(
                ["stage", "done", "one takes", "all take"],
                _times(plan),
                "Of the attempts that finished; interrupted ones are not counted. Of several, one takes the median.",
            ),
        ],
    )


def _steps(plan: Plan) -> str:
    """How long the networks were trained, where an arm or a data set does not say otherwise."""
    study = plan.study
    config = build_config(study.values, study.origin)
    parts = []
    if any(arm.diffusion and arm.run is None for arm in study.arms):
        train = config.train
        parts.append(f"A generator: {train.steps} steps of {train.batch_size} pairs at {config.data.resolution} px.")
    if any(arm.diffusion for arm in study.arms):
        parts.append(f"Sampling: {config.sample.scheduler}, {config.sample.steps} steps.")
    for name, values in study.networks.items():
        own = build_config(merge(study.values, values), study.origin).segment
        parts.append(f"{name}: {own.steps} steps of {own.batch_size} pairs at {own.resolution} px.")
    return " ".join(parts)


def _arm(arm: Arm) -> list[str]:
    settings = {
        f"{section}.{name}": value for section, entries in arm.values.items() for name, value in entries.items()
    }
    changed = [f"{name} = {value}" for name, value in settings.items() if name != "method.name"]
    changed += [f"min_fit = {arm.min_fit:g}"] if arm.min_fit is not None else []
    changed += [f"oversample = {arm.oversample:g}"] if arm.oversample > 1 else []
    changed += [f"run = {Path(arm.run).name}"] if arm.run is not None else []
    return [_tight(arm.name), _tight(arm.kind), _tight(arm.recipe), f"{arm.ratio:g}", ", ".join(changed)]


def _times(plan: Plan) -> list[list[str]]:
    stages = plan.stages()
    kinds = dict.fromkeys(stage.kind for stage in stages)
    seconds = {kind: [stage.seconds for stage in stages if stage.kind == kind and stage.done] for kind in kinds}
    body = []
    for kind, found in seconds.items():
        count = sum(stage.kind == kind for stage in stages)
        median = _time(statistics.median(found)) if found else ""
        body.append([STAGES_IN_WORDS[kind], f"{len(found)} of {count}", median, _time(sum(found))])
    total = sum(map(sum, seconds.values()))
    return [*body, ["all", f"{sum(map(len, seconds.values()))} of {len(stages)}", "", _time(total)]]


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.1f}\u00a0min" if seconds < 6000 else f"{seconds / 3600:.1f}\u00a0h"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def _lines(body: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows whose figures stay whole; an arm's name, in the first column, may be broken between words."""
    return [[name.replace("-", "\u2011"), *map(_tight, figures)] for name, *figures in body]


def _tight(cell: str) -> str:
    """Broken by a browser before an interval only: spaces and hyphens that do not break, and a minus before a
    number."""
    minus = re.sub(r"(^|[\s\[])-(?=\d)", "\\1\u2212", cell)
    return re.sub(r" (?!\[)", "\u00a0", minus).replace("-", "\u2011")


def _write(path: Path, png: bytes) -> None:
    def save(temporary: Path) -> Any:
        return temporary.write_bytes(png)

    write_whole(path, save)
