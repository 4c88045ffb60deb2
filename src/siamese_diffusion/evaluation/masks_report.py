"""`evaluate --masks`: are drawn masks like real ones that nobody learned from, and are they new?

Design note: real masks differ from each other too, so a difference counts only as far as it is larger than chance. The
tests look at no more than `MOST_TESTED` masks of a set: with ever more masks any difference, however small, would be
found, and what is good would hang on how many were drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.claim import Claim, marked_by, require_apart
from siamese_diffusion.config import READING, Config, EvaluateConfig
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.decoding import plain_settings
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.label_maps import Labels, other_masks, read_label_maps
from siamese_diffusion.data.pairs import MaskFile
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation import masks_page
from siamese_diffusion.evaluation.features import FLIP_NAMES
from siamese_diffusion.evaluation.masks_page import MaskSets
from siamese_diffusion.evaluation.metrics.mask_verdict import verdict, wilson
from siamese_diffusion.evaluation.metrics.masks import compare, describe, diversity, nearest
from siamese_diffusion.files import read_json, write_json
from siamese_diffusion.lock import hold
from siamese_diffusion.progress import notify

COMMAND = "evaluate --masks"
LEAST = 2
MOST_TESTED = 400
"""Masks of a set that the tests look at, drawn where there are more."""


def report_masks(
    masks: StrPath | DataFolder,
    real: StrPath | DataFolder,
    out: StrPath,
    held_out: StrPath | DataFolder | None = None,
    config: Settings = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Compare drawn masks with the real ones that they were learned from, and with others.

    Args:
        masks: folder of masks or pairs.
        real: folder of the masks that the drawn ones were learned from (`data.split`, `data.limit`).
        out: gets `report.html` and `metrics.json`.
        held_out: folder of other real masks; those among the training masks are left out. Default: all masks of `real`
            that are not among them.
        config: `data` and `evaluate` are read; masks are compared at `data.resolution`.
        resume: go on where an earlier call with the same `out` stopped; a finished one is returned as it is.

    Returns:
        See `measure`; and `protocol`.

    Raises:
        InputError: no masks, too few, or an `out` that holds anything but this, finished only with `resume`.
    """
    out, config = to_path(out), to_config(config)
    require_apart(out, masks=masks, real=real, held_out=held_out)
    real_folder = DataFolder.of(real, "--real", config.data).require_real()
    config = real_folder.resolved(config)
    drawn_folder, data = _drawn_folder(masks, config), config.data
    names = dict(enumerate(class_names(data), 1))
    chosen = [mask for _, mask in real_folder.masks(data.split, data.limit, data.limit_seed)]
    drawn = [mask for _, mask in drawn_folder.masks()]
    other = DataFolder.of(held_out, "--held-out", data).require_real() if held_out is not None else real_folder
    held = [mask for _, mask in other_masks(other, chosen)]
    if held_out is not None and not held:
        raise InputError(f"--held-out {other.path}: each of its masks is a training mask of --real; name other masks")
    with hold(out):
        depends: dict[str, set[str] | None] = {"data": {"split", "limit", "limit_seed", "resolution", *READING}}
        depends["evaluate"] = {"false_alarms", "seed"}
        claim = Claim(out, config, depends, _inputs(drawn, chosen, held), resume)
        if (out / "metrics.json").exists():
            finished = read_json(out / "metrics.json", dict[str, Any])
            return finished
        claim.mark()
        sets = MaskSets(*(read_label_maps(each, data.resolution) for each in (drawn, chosen, held)))
        _require(sets, drawn_folder, real_folder)
        claim.write()
        metrics = measure(sets, config.evaluate, names)
        folders = {"drawn": drawn_folder.path, "real": real_folder.path, "held_out": other.path if held else None}
        metrics["protocol"] = {
            "version": version("siamese-diffusion"),
            **{name: str(path.resolve()) if path is not None else None for name, path in folders.items()},
            "split": data.split,
            "resolution": data.resolution,
            "seed": config.evaluate.seed,
        }
        masks_page.write(out / "report.html", metrics, sets, names)
        write_json(out / "metrics.json", metrics)  # last: with it the folder is finished
        notify(f"the report: {out / 'report.html'}")
        return metrics


def measure(sets: MaskSets, settings: EvaluateConfig, names: Mapping[int, str] | None = None) -> dict[str, Any]:
    """Every figure of drawn masks; empty masks are counted and left out.

    Args:
        sets: drawn masks, those they were learned from, and others; of the last there may be none.
        settings: `false_alarms` and `seed` count.
        names: of the classes by their value, where there are several.

    Returns:
        `counts` of masks with a lesion, and `empty` ones: {drawn, real, held_out}; `training` and `held_out`, see
        `metrics.masks.compare`, the latter None without such masks; `copies`: `share` and `flagged`, how many,
        `threshold` (of the IoU), `false_alarm_rate` with `measured_on` {masks, count}, `target`, and `nearest`,
        [{drawn, real, flip, iou}], most similar first; `diversity` {drawn, real}; `verdict`, see
        `mask_verdict.verdict`.
    """
    lesions = sets.with_lesions()
    seed = settings.seed
    tested = [describe(_some(labels, seed + i), names) for i, labels in enumerate(lesions) if len(labels)]
    reference = lesions.held_out if len(lesions.held_out) >= LEAST else lesions.real
    metrics: dict[str, Any] = {
        "counts": {name: len(labels) for name, labels in lesions._asdict().items()},
        "empty": {
            name: len(whole) - len(labels)
            for (name, whole), labels in zip(sets._asdict().items(), lesions, strict=True)
        },
        "training": compare(tested[0], tested[1], seed),
        "held_out": compare(tested[0], tested[2], seed) if len(lesions.held_out) >= LEAST else None,
        "copies": _copies(lesions, settings.false_alarms),
        "diversity": {"drawn": diversity(lesions.drawn, seed), "real": diversity(reference, seed)},
    }
    metrics["verdict"] = asdict(verdict(metrics))
    return metrics


def _copies(sets: MaskSets, target: float) -> dict[str, Any]:
    """Drawn masks that are nearer to a training mask than nearly any training mask is to another one."""
    own = nearest(sets.real, sets.real, apart=True).iou
    threshold = float(np.quantile(own, 1 - target, method="higher"))
    held = len(sets.held_out) >= LEAST
    base = nearest(sets.held_out, sets.real).iou if held else own
    found = nearest(sets.drawn, sets.real)
    flagged = int((found.iou > threshold).sum())
    order = np.argsort(-found.iou, kind="stable")[:12].tolist()
    return {
        "share": flagged / len(found.iou),
        "flagged": flagged,
        **wilson(flagged, len(found.iou)),
        "threshold": threshold,
        "target": target,
        "false_alarm_rate": float((base > threshold).mean()),
        "measured_on": {"masks": "held-out" if held else "training", "count": len(base)},
        "nearest": [
            {
                "drawn": i,
                "real": int(found.place[i]),
                "flip": FLIP_NAMES[found.flip[i]],
                "iou": float(found.iou[i]),
            }
            for i in order
        ],
    }


def _some(labels: Labels, seed: int) -> Labels:
    if len(labels) <= MOST_TESTED:
        return labels
    return labels[np.sort(np.random.default_rng(seed).permutation(len(labels))[:MOST_TESTED])]


def _drawn_folder(masks: StrPath | DataFolder, config: Config) -> DataFolder:
    if not isinstance(masks, DataFolder) and marked_by(prior := to_path(masks, "--masks")) == "train-masks":
        raise InputError(
            f"--masks {masks}: is a prior, and its own report is {prior / 'report.html'}; name a folder of masks that "
            f"were drawn, {prior / 'drawn'} for example"
        )
    settings = plain_settings(config.data)
    folder = DataFolder.of(masks, "--masks", settings)
    names = class_names(config.data)
    if folder.listing is None and names:  # masks alone, which no file of names lies beside
        values = tuple(f"{name}={label}" for label, name in enumerate(names, 1))
        return DataFolder(folder.path, "--masks", settings.model_copy(update={"classes": values}))
    return folder


def _inputs(drawn: Sequence[MaskFile], chosen: Sequence[MaskFile], held: Sequence[MaskFile]) -> dict[str, Any]:
    sets = {"drawn": drawn, "real": chosen, "held_out": held}
    return {
        "command": COMMAND,
        **{name: len(masks) for name, masks in sets.items()},
        **note_files([path for masks in sets.values() for mask in masks for path in mask.files]),
    }


def _require(sets: MaskSets, drawn: DataFolder, real: DataFolder) -> None:
    lesions = sets.with_lesions()
    for folder, labels in ((drawn, lesions.drawn), (real, lesions.real)):
        if len(labels) < LEAST:
            raise InputError(f"{folder.named}: {len(labels)} masks with a lesion; at least {LEAST} are compared")
