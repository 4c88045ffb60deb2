"""The `evaluate` command: score a folder of synthetic pairs against real ones.

Lives above the rooms: it trains the judge with `segmentation` and hands its predictions to `evaluation`.
"""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from siamese_diffusion import pictures
from siamese_diffusion.config import Config, dump_config, load_config, update
from siamese_diffusion.data.pairs import Pair, find_pairs, splits, test_sets
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.appearance import appearance
from siamese_diffusion.evaluation.fit import interval, pair_scores, shuffled_fit
from siamese_diffusion.files import read_json, write_json, write_text, write_whole
from siamese_diffusion.loop import make_accelerator
from siamese_diffusion.progress import say
from siamese_diffusion.segmentation.batches import Arrays, load
from siamese_diffusion.segmentation.train import load_network, predict, segment, test_pairs


def evaluate(
    real: Path,
    synthetic: Path,
    out: Path,
    config: Config | None = None,
    judge: Path | None = None,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Score synthetic pairs: do the images obey their masks, and do they look like the real ones.

    Args:
        real: folder of real pairs. Its split `test` (or PraNet's test sets) measures the judge; without one, the
            judge's validation pairs do, which flatters it a little since they picked its epoch.
        synthetic: folder of synthetic pairs.
        out: gets `config.yaml`, `metrics.json`, `fit.csv`, `worst.png` and, where it is trained here, the run `judge/`.
        config: the settings; default: the defaults.
        judge: a finished run of `segment` on real pairs, instead of training one on all training pairs of `real`
            (`data.limit` does not count: the judge is an instrument, not an arm of a study).
        resume: go on where an earlier call with the same `out` stopped; a finished one is returned as it is.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Returns:
        `fit`: `dice`, `iou` and `shuffled` (Dice against other pairs' masks), each {mean, low, high}; `judge`
        {dice, on, count}; `ratio`, fit over the judge's own Dice, None where that is 0.
        `appearance`: see `evaluation.appearance`. `counts`: {real, synthetic}.

    Raises:
        InputError: bad input, fewer than two pairs, or `out` holds results and `resume` is false.
    """
    config = config or Config()
    if (out / "metrics.json").exists():
        if not resume:
            raise InputError(f"--out {out}: already holds results; add --resume to read them, or name another folder")
        finished: dict[str, Any] = read_json(out / "metrics.json")
        return finished
    made = find_pairs(synthetic)
    pairs = find_pairs(real, config.data.split)
    for folder, found in ((synthetic, made), (real, pairs)):
        if len(found) < 2:
            raise InputError(f"{folder}: evaluation needs at least two pairs")

    held = _held_out(real)
    if judge is None:
        judge = out / "judge"
        _train_judge(real, judge, config, bool(held), resume, device)
    network = load_network(judge).to(make_accelerator("no", device).device)
    settings = load_config(judge / "config.yaml").segment

    say(f"scoring {len(made)} synthetic pairs")
    drawn = load(made, settings.resolution)
    predictions = predict(network, drawn.images, settings.batch_size)
    scores = pair_scores(predictions, drawn.masks)
    if held:
        tested = load(held, settings.resolution)
        own = pair_scores(predict(network, tested.images, settings.batch_size), tested.masks)["dice"]
        judged: dict[str, Any] = {"dice": float(own.mean()), "on": "test", "count": len(held)}
    else:
        validation = read_json(judge / "metrics.json")["val"]
        judged = {"dice": validation["mDice"], "on": "validation", "count": validation["count"]}
    fit = {name: interval(values) for name, values in scores.items()}
    size = config.data.resolution  # what the generator was shown, so that sharpness is compared like with like
    metrics = {
        "fit": {
            **fit,
            "shuffled": shuffled_fit(predictions, drawn.masks)["dice"],
            "judge": judged,
            "ratio": fit["dice"]["mean"] / judged["dice"] if judged["dice"] else None,
        },
        "appearance": appearance(
            load(pairs, size).images, drawn.images if size == settings.resolution else load(made, size).images
        ),
        "counts": {"real": len(pairs), "synthetic": len(made)},
    }
    write_text(out / "config.yaml", dump_config(config))
    _table(out / "fit.csv", made, scores)
    _picture(out / "worst.png", drawn, predictions, scores["dice"])
    write_json(out / "metrics.json", metrics)
    return metrics


def _train_judge(real: Path, out: Path, config: Config, tested: bool, resume: bool, device: str) -> None:
    config = update(config, "segment", network=config.evaluate.fit_network, steps=config.evaluate.fit_steps)
    unlimited = config.model_copy(update={"data": config.data.model_copy(update={"limit": None})})
    segment(real, out, [real] if tested else [], config=unlimited, resume=resume, device=device)


def _held_out(real: Path) -> list[Pair]:
    if not test_sets(real) and "test" not in (splits(real) or {}):
        return []
    return [pair for found in test_pairs([real]).values() for pair in found]


def _table(path: Path, pairs: list[Pair], scores: dict[str, Any]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", *scores])
    for pair, *values in zip(pairs, *scores.values(), strict=True):
        table.writerow([pair.name, *(f"{value:.6f}" for value in values)])
    write_text(path, text.getvalue())


def _picture(path: Path, pairs: Arrays, predictions: Any, dice: Any, count: int = 12, columns: int = 6) -> None:
    """The worst pairs, then the best: green what was asked for, magenta what the judge sees."""
    order = np.argsort(dice, kind="stable")
    chosen = [*order[:count], *order[max(count, len(order) - count) :]]
    rows, captions = [], []
    for start in range(0, len(chosen), columns):
        part = chosen[start : start + columns]
        asked = [pictures.outline(pairs.images[i], pairs.masks[i], pictures.GREEN) for i in part]
        rows.append([pictures.outline(a, predictions[i] > 0.5, pictures.MAGENTA) for a, i in zip(asked, part, strict=True)])
        captions.append([f"Dice {dice[i]:.3f}" for i in part])
    write_whole(path, pictures.grid(rows, captions).save)
