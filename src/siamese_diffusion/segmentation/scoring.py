"""What a trained network is worth: the scores of a run's sets, `metrics.json`, and what its page shows."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from siamese_diffusion import pictures
from siamese_diffusion.config import Config, SegmentConfig
from siamese_diffusion.data.arrays import read_squared
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.report import Table, percent
from siamese_diffusion.segmentation import page
from siamese_diffusion.segmentation.batches import share_of_made
from siamese_diffusion.segmentation.best_step import Selection
from siamese_diffusion.segmentation.curves import Curves
from siamese_diffusion.segmentation.findings import Findings, Scored
from siamese_diffusion.segmentation.inference import at_size, marked, probabilities, score_set, write_label
from siamese_diffusion.segmentation.material import Material
from siamese_diffusion.segmentation.metrics import summary
from siamese_diffusion.segmentation.pranet_metrics import FIGURES


def score_all(
    network: nn.Module, material: Material, out: Path, settings: SegmentConfig
) -> tuple[dict[str, Scored], Scored | None]:
    """The test sets by name; and the fold with the labels of its images, or, where nothing else is, the validation
    pairs."""
    tests = {}
    for name, pairs in material.tests.items():
        findings = Findings()
        scores = score_set(network, pairs, out / "test" / f"{name}.csv", settings, partial(_note, findings, None))
        tests[name] = Scored(pairs, scores, findings)
    findings = Findings()
    if material.fold is not None:
        held, note = material.fold.held, partial(_note, findings, material.fold.labels)
        own = Scored(held, score_set(network, held, out / HELD, settings, note), findings)
        findings.save(out / FINDINGS)
        return tests, own
    if tests:
        return tests, None
    held, note = material.validation, partial(_note, findings, None)
    return tests, Scored(held, score_set(network, held, out / "validation.csv", settings, note), findings)


HELD, FINDINGS = "held-out.csv", "findings.json"
"""Of a fold: scores of its images, and what else was seen in them."""


def _note(
    findings: Findings, labels: Path | None, part: Sequence[Pair], masks: NDArray[Any], seen: NDArray[Any]
) -> None:
    findings.add(masks, seen)
    for pair, probable in zip(part, seen, strict=True) if labels is not None else ():
        shape = pair.mask.read().shape
        mask = marked(at_size(probable, shape, pair.image.decoding.settings.fit))
        assert labels is not None
        write_label(labels / f"{pair.name}.png", mask)


def metrics_of(
    network: nn.Module,
    start: dict[str, Any],
    best: dict[str, Any],
    selection: Selection,
    scored: dict[str, Scored],
    own: Scored | None,
    material: Material,
    settings: SegmentConfig,
) -> dict[str, Any]:
    """What `metrics.json` says."""
    tests = summary({name: one.scores for name, one in scored.items()})
    last = selection.rows[-1]["step"]
    metrics = {
        "network": settings.network,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **start,
        "seed": settings.seed,
        "train": {
            **material.counts,
            "synthetic_share": share_of_made(settings, len(material.real), len(material.made)),
        },
        "step": best["step"],
        "stopped": last if last < settings.steps else None,
        "val": {name: value for name, value in best.items() if name != "step"},
        "test": tests["sets"],
        "mean": tests["mean"],
        "weighted": tests["weighted"],
        "calibration": {name: one.findings.calibration for name, one in scored.items()},
    }
    if material.fold is not None and own is not None:
        metrics["fold"] = {
            "index": material.fold.index,
            "of": material.fold.of,
            **own.scores.means(),
            "calibration": own.findings.calibration,
        }
    return metrics


def write_page(
    network: nn.Module,
    metrics: dict[str, Any],
    tests: dict[str, Scored],
    own: Scored | None,
    curves: Curves,
    out: Path,
    config: Config,
    times: dict[str, float],
) -> None:
    """Write the last `curves.png`, and `report.html`."""
    fold = metrics.get("fold")
    note = f"The step was picked by {metrics['val']['count']} validation pairs, which are none of these."
    if own is not None and fold is None:
        note = (
            "These validation pairs picked the step, so the figures are too good; for figures that can be quoted, give "
            "test pairs, or --folds."
        )
    named = [(f"test set {name}", one, f"test/{name}.csv") for name, one in tests.items()]
    if own is not None:
        title, table = (f"fold {fold['index']}", HELD) if fold else ("validation pairs", "validation.csv")
        named.insert(0, (title, own, table))
    sets = [
        page.Shown(
            name,
            [pair.name for pair in one.pairs],
            one.scores.dice.numpy(),
            one.scores.iou.numpy(),
            one.findings,
            partial(_tiles, network, one.pairs, config.segment),
            table,
            class_names(config.data),
        )
        for name, one, table in named
    ]
    field = [name for name in next(iter(metrics["test"].values()), {}) if name in FIGURES]
    rows = [[name, *(f"{100 * row[each]:.1f}" for each in field)] for name, row in metrics["test"].items()]
    figures = [Table(["", *field], rows, "x 100, as in PraNet's tool.", title="The polyp papers' figures")]
    figures = by_class(scored_means(metrics, own), config) + (figures if rows and field else [])
    title = f"Segmentation by {metrics['network']}" + (f", fold {fold['index']} of {fold['of']}" if fold else "")
    curve = curves.draw(metrics["step"])
    settings = page.settings_rows(metrics, config, times)
    page.write(out / "report.html", title, note, sets, curve, figures, settings)


def scored_means(metrics: dict[str, Any], own: Scored | None) -> dict[str, dict[str, float]]:
    """The figures of each set that was scored, by name."""
    return dict(metrics["test"]) | ({} if own is None else {"validation or held-out pairs": own.scores.means()})


def by_class(sets: dict[str, dict[str, float]], config: Config) -> list[Table]:
    """A table of each class's Dice and IoU; none for one class."""
    names = class_names(config.data)
    if not names:
        return []
    rows = []
    for set_name, means in sets.items():
        for name in names:
            cells = [
                percent(means[f"{kind} {name}"]) if f"{kind} {name}" in means else "" for kind in ("mDice", "mIoU")
            ]
            rows.append([set_name, name, *cells])
    note = (
        "Means over the images in which the class is, or is seen: one that is neither there nor seen is left out, and "
        "counts 0 where it is seen and not there, as in nnU-Net. mDice and mIoU are the means over classes."
    )
    return [Table(["", "class", "Dice, %", "IoU, %"], rows, note, title="By class")]


def _tiles(
    network: nn.Module, pairs: Sequence[Pair], settings: SegmentConfig, chosen: Sequence[int]
) -> list[NDArray[Any]]:
    images, masks = read_squared([pairs[i] for i in chosen], settings.resolution)
    seen = probabilities(network, images, settings.batch_size, settings.correction)
    return [pictures.outlines(image, mask, marked(each)) for image, mask, each in zip(images, masks, seen, strict=True)]
