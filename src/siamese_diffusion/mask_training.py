"""The `train-masks` command: a prior of masks, learned from masks alone, and whether what it draws is like them.

Design note: it stands above the rooms, since it trains with the loop of the diffusions and is judged by the evaluation.
It is not called `train_masks.py`: beside the package's own files that name is the function's.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import nn

from siamese_diffusion import progress
from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import READING, Config, update
from siamese_diffusion.data.classes import class_names, stored_mask
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.label_maps import Labels, other_masks, read_label_maps
from siamese_diffusion.data.pairs import MaskFile
from siamese_diffusion.device import find_device, make_accelerator, precision_on
from siamese_diffusion.diffusion.distance_maps import FINER, to_labels
from siamese_diffusion.diffusion.drawn_masks import draw_masks
from siamese_diffusion.diffusion.judging import long_enough
from siamese_diffusion.diffusion.mask_prior import MaskData, MaskPrior, as_they_are, begin, save_prior
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation import masks_page
from siamese_diffusion.evaluation.masks_page import MaskSets
from siamese_diffusion.evaluation.masks_report import measure
from siamese_diffusion.files import read_json, read_jsonl, whole_folder, write_json
from siamese_diffusion.lock import hold
from siamese_diffusion.loop import run
from siamese_diffusion.randomness import generator
from siamese_diffusion.report import Verdict

LEAST = 8
"""Masks with a lesion that a prior takes at least; a good one takes hundreds."""
ENOUGH = 40
"""Masks from which some are held out where the folder holds no others."""
MOST_HELD = 2000
"""Held-out masks that are looked at."""
SHOWN = 16
"""Masks of a sample grid."""
REPORT_SEED = 1
"""Beside the training's seed, of the masks that are drawn for the report."""


class _Material(NamedTuple):
    """What the prior learns from, and what it is measured against; label maps uint8 (n, R, R)."""

    learned: Labels
    held: Labels
    empty: int
    """Training masks without a lesion, which are left out."""


def train_masks(
    data: StrPath | DataFolder, out: StrPath, config: Settings = None, resume: bool = False, device: str = "auto"
) -> dict[str, Any]:
    """Learn a prior of masks, for `sample --masks`.

    Args:
        data: folder of pairs or of masks; images are not read. Masks without a lesion are left out.
        out: run folder; gets `config.yaml`, `log.jsonl`, `samples/`, `checkpoints/` and, when done, `prior/`, `drawn/`
            (the masks that the report is about), `report.html` and `metrics.json`.
        config: settings; `data`, `train_masks` and `evaluate` are read.
        resume: go on with an interrupted run; the result is the same as if it had not been interrupted.
        device: "auto", "cpu", "cuda" ...

    Returns:
        `run`, its folder; `masks` learned from, `empty` ones left out, and `held_out`; `steps`; `parameters`;
        `verdicts` on the drawn masks (see `masks_report.measure`) and on the training; `metrics`.

    Raises:
        InputError: too few masks or all alike, settings that do not fit, or an `out` that holds a run already or
            another command is writing.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    out, chosen = to_path(out), to_config(config)
    require_apart(out, data=data)
    with hold(out):
        return _train_masks(data, out, chosen, resume, device)


def _train_masks(data: StrPath | DataFolder, out: Path, config: Config, resume: bool, device: str) -> dict[str, Any]:
    config = update(config, "train_masks", precision=precision_on(find_device(device), config.train_masks.precision))
    settings = config.train_masks
    folder = DataFolder.of(data, "--data", config.data).require_real()
    config = folder.resolved(config)
    chosen, held = _choose(folder, config)
    claim = _claim(out, config, chosen, held, resume)
    claim.mark()
    material = _read(folder, chosen, held, settings.side * FINER)
    claim.write()

    # The network, and what it learns from: all in memory, since distance maps are small.
    names = class_names(config.data) or (config.data.label,)
    prior, seen = begin(settings, material.learned, len(names))
    known = as_they_are(prior, material.learned)
    unseen = as_they_are(prior, material.held) if len(material.held) else None
    run(
        prior,
        partial(_batch, seen, config, prior.timesteps),
        settings,
        out,
        resume=resume,
        device=device,
        observe=partial(_observe, prior, known, unseen, config, out / "samples"),
        description="masks",
    )
    return _finish(prior, material, names, out, config, device)


def _choose(folder: DataFolder, config: Config) -> tuple[list[MaskFile], list[MaskFile]]:
    """The masks to learn from, and others to measure what is drawn against: all that the folder holds besides, or a
    share of the former."""
    data, settings = config.data, config.train_masks
    chosen = [mask for _, mask in folder.masks(data.split, data.limit, data.limit_seed)]
    held = [mask for _, mask in other_masks(folder, chosen)]
    if not held and len(chosen) >= ENOUGH and settings.set_aside > 0:
        drawn = torch.randperm(len(chosen), generator=generator(settings.seed, 5)).tolist()
        apart = set(drawn[: round(settings.set_aside * len(chosen))])
        held = [chosen[i] for i in sorted(apart)]
        chosen = [mask for i, mask in enumerate(chosen) if i not in apart]
        progress.notify(
            f"{folder.path}: {len(held)} of {len(chosen) + len(held)} masks are held out, to measure the drawn ones "
            "against (train_masks.set_aside)"
        )
    order = np.random.default_rng(settings.seed).permutation(len(held))[:MOST_HELD]
    return chosen, [held[i] for i in sorted(order)]


def _claim(out: Path, config: Config, chosen: Sequence[MaskFile], held: Sequence[MaskFile], resume: bool) -> Claim:
    inputs = {
        "command": "train-masks",
        "masks": len(chosen),
        "held_out": len(held),
        **note_files([path for mask in (*chosen, *held) for path in mask.files]),
    }
    depends = {"data": {"split", "limit", "limit_seed", "label", *READING}, "train_masks": None}
    return Claim(out, config, depends, inputs, resume)


def _read(folder: DataFolder, chosen: Sequence[MaskFile], held: Sequence[MaskFile], resolution: int) -> _Material:
    """The label maps with a lesion.

    Raises:
        InputError: they are too few, or all alike.
    """
    labels, others = read_label_maps(chosen, resolution), read_label_maps(held, resolution)
    learned, others = labels[labels.any((1, 2))], others[others.any((1, 2))]
    empty = len(labels) - len(learned)
    if empty:
        progress.notify(
            f"{folder.path}: {empty} of {len(labels)} masks are empty and are not learned from; every mask that is "
            "drawn has a lesion"
        )
    if len(learned) < LEAST:
        raise InputError(
            f"{folder.named}: {len(learned)} masks with a lesion to learn from; a prior takes at least {LEAST}, and a "
            "good one hundreds"
        )
    if (learned == learned[0]).all():
        raise InputError(f"{folder.named}: its {len(learned)} masks are all the same; there is nothing to learn")
    return _Material(learned, others, empty)


def _batch(seen: MaskData, config: Config, timesteps: int, step: int, rows: range) -> dict[str, Any]:
    return seen.batch(step, rows, config.train_masks, timesteps)


def _observe(
    prior: MaskPrior, known: MaskData, unseen: MaskData | None, config: Config, samples: Path, step: int, _: nn.Module
) -> dict[str, float]:
    """Draw a few masks, and look at the losses of masks that were learned from and of others, at the same noise."""
    settings = config.train_masks
    wanted = prior.layouts.rows(slice(SHOWN))
    maps = prior.draw(wanted, [(i, 0) for i in range(len(wanted))], settings.seed, settings.draw_steps)
    masks_page.save_grid(to_labels(maps, settings.side * FINER), prior.classes, samples / f"step-{step:06d}.png")
    found = {"seen": known.loss(prior, settings.seed)}
    return found | ({"held_out": unseen.loss(prior, settings.seed)} if unseen is not None else {})


def _finish(
    prior: MaskPrior, material: _Material, names: Sequence[str], out: Path, config: Config, device: str
) -> dict[str, Any]:
    """Write what `sample` takes, and say whether what it draws is like the held-out masks; of several processes the
    first one does."""
    settings = config.train_masks
    result: dict[str, Any] = {
        "run": str(out),
        "masks": len(material.learned),
        "empty": material.empty,
        "held_out": len(material.held),
        "steps": settings.steps,
        "parameters": sum(parameter.numel() for parameter in prior.parameters()),
    }
    if make_accelerator(settings.precision, device).is_main_process:
        save_prior(prior, names, config.data.fit, out)
        verdicts, metrics = _judge(prior, material, names, out, config)
        result |= {"verdicts": [asdict(verdict) for verdict in verdicts], "metrics": metrics}
        write_json(out / "summary.json", result)
    PartialState().wait_for_everyone()
    return result if "metrics" in result else read_json(out / "summary.json", dict[str, Any])


def _judge(
    prior: MaskPrior, material: _Material, names: Sequence[str], out: Path, config: Config
) -> tuple[list[Verdict], dict[str, Any]]:
    """The report on masks that are drawn for it, at the size at which the others were read."""
    settings = config.train_masks
    size = material.learned.shape[1]
    seed = settings.seed + REPORT_SEED
    drawn = draw_masks(prior.eval(), settings.report_masks, seed, size, settings.draw_steps)
    labels = drawn.labels(slice(None), size)
    _write_drawn(labels, names, out / "drawn")
    classes = dict(enumerate(names, 1))
    sets = MaskSets(labels, material.learned, material.held)
    metrics = measure(sets, config.evaluate, classes)
    metrics["protocol"] = {
        "version": version("siamese-diffusion"),
        "resolution": size,
        "training seed": settings.seed,
        "drawing seed": seed,
        "steps": settings.steps,
    }
    looks = {int(row["step"]): row for row in map(dict, read_jsonl(out / "log.jsonl")) if "seen" in row}
    verdicts = [Verdict(**metrics["verdict"]), long_enough(looks, "train_masks", "masks")]
    masks_page.write(out / "report.html", metrics, sets, classes, verdicts[1:], "train-masks")
    write_json(out / "metrics.json", metrics)
    return verdicts, metrics


def _write_drawn(labels: Labels, names: Sequence[str], folder: Path) -> None:
    """The drawn masks as PNG files that every command reads as masks: of one class black and white, else labels."""
    with whole_folder(folder) as temporary:
        for i, label in enumerate(labels):
            mask = stored_mask(label if len(names) > 1 else label > 0)
            Image.fromarray(mask).save(temporary / f"{i:05d}.png")


def render(result: dict[str, Any]) -> str:
    """What `train_masks` returned, for the terminal."""
    out = Path(result["run"])
    empty = f" ({result['empty']} empty ones left out)" if result["empty"] else ""
    lines = masks_page.render(result["metrics"]).splitlines()
    training = result["verdicts"][1]
    return "\n".join(
        [
            lines[0],
            f"{training['question']} {training['word']}. {training['because']}",
            *lines[1:],
            f"the prior: {result['steps']} steps on {result['masks']} masks{empty}; the run: {out}",
            f"the report: {out / 'report.html'}; the masks it is about: {out / 'drawn'}",
            f"next: siamese-diffusion sample --checkpoint RUN --masks {out} --count 500 --out NEW",
        ]
    )
