"""The `evaluate` command: are synthetic images good, do they obey their masks, and are they new?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from siamese_diffusion import __version__
from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path, to_path_or_none
from siamese_diffusion.claim import Claim, begun_earlier, holds_run, require_apart, visible
from siamese_diffusion.config import READING, Config, EvaluateConfig, update
from siamese_diffusion.data.arrays import load_images
from siamese_diffusion.data.decoding import plain_settings
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_files, note_files
from siamese_diffusion.data.pairs import Pair, reading
from siamese_diffusion.data.splits import held_out, own_test_pairs
from siamese_diffusion.device import find_device, precision_on, set_tf32
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation import extractors, gallery, page
from siamese_diffusion.evaluation.carded import note_in_cards, require_drawn_by
from siamese_diffusion.evaluation.compare import Comparison, Sets, compare, set_aside
from siamese_diffusion.evaluation.features import Extractor
from siamese_diffusion.evaluation.judge import (
    SHUFFLED,
    Judge,
    embedder,
    judge_of,
    measure_both,
    own_error,
)
from siamese_diffusion.evaluation.masks_report import report_masks
from siamese_diffusion.evaluation.metrics import copies, distances, local_matches
from siamese_diffusion.evaluation.metrics import lpips as perceptual
from siamese_diffusion.evaluation.metrics.appearance import appearance
from siamese_diffusion.evaluation.metrics.class_fit import of_classes
from siamese_diffusion.evaluation.metrics.mask_fit import RESAMPLES, Scores, interval, of_healthy, of_lesions
from siamese_diffusion.evaluation.scores import read_fits
from siamese_diffusion.evaluation.verdict import verdicts
from siamese_diffusion.files import read_json, to_csv, write_json, write_text, write_whole
from siamese_diffusion.lock import hold
from siamese_diffusion.progress import notify
from siamese_diffusion.segmentation.trained import WEIGHTS, require_finished
from siamese_diffusion.segmentation.training import read_result

RESULTS = frozenset({"config.yaml", "fit.csv", "novelty.csv", "worst.png", "report.html", "metrics.json"})
"""What is written at the end, in this order in earlier versions; now `config.yaml` is there from the beginning."""

MOST_LOOKED_AT = 2000
"""Colour and texture statistics look at no more images of a kind than this."""


def evaluate(
    real: StrPath | DataFolder,
    synthetic: StrPath | DataFolder | None,
    out: StrPath,
    config: Settings = None,
    judge: StrPath | None = None,
    resume: bool = False,
    device: str = "auto",
    features: str | None = None,
    cache: StrPath | None = None,
    run: StrPath | None = None,
    masks: StrPath | DataFolder | None = None,
    held_out: StrPath | DataFolder | None = None,
) -> dict[str, Any]:
    """Score synthetic pairs: are the images good, do they obey their masks, and are they new? Or masks alone.

    What the figures mean, and how each is taken, is in docs/evaluation.md; of masks, in docs/masks.md.

    Args:
        real: folder of real pairs; those of `data.split` are the reference. Its split `test` (or PraNet's test sets)
            measures the judge; without one, the judge's validation pairs do, which flatters it a little since they
            picked its epoch. All other splits measure the false alarms of the copy flag.
        synthetic: folder of synthetic pairs; None with `masks`.
        out: gets `report.html`, `metrics.json`, `config.yaml`, `fit.csv`, `novelty.csv`, `worst.png` and, where it is
            trained here, the run `judge/`.
        config: the settings; default: the defaults.
        judge: a finished run of `segment` on real pairs, instead of training one on all training pairs of `real`
            (`data.limit` does not count: the judge is an instrument, not an arm of a study).
        resume: go on where an earlier call with the same `out` stopped; a finished one is returned as it is.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        features: instead of `evaluate.features`.
        cache: folder that keeps features between calls; default: `out`/features.
        run: the run of `train` that drew the pairs: what was found is noted in it and in their folder, and goes into
            the cards of both.
        masks: instead of `synthetic`, a folder of drawn masks to compare with those of `real`, see
            `masks_report.report_masks`.
        held_out: with `masks`, a folder of other real masks; default: all of `real` that are not of `data.split`.

    Returns:
        With `masks`, see `masks_report.report_masks`. Else
        `quality`: see `metrics.panel.panel`. `fit`: `dice`, `iou`, `boundary` and `shuffled` (Dice against other
        pairs' masks), each {mean, low, high}, of the pairs with a lesion; `judge` {dice, boundary, on, count}; `ratio`,
        fit over the judge's own Dice, None where that is 0; `healthy` {count, specificity} where some pairs have no
        lesion. `novelty`: `share_flagged`, `threshold` (1), `thresholds` by description,
        `false_alarm_rate`, `measured_on` {images, count}, `base` (training images that gave the thresholds),
        `target`, `score` {mean, low, high}, and `flagged`, [{synthetic, real, distance, flip, by}], nearest first;
        `distance` is the score; `alarms`, the same of the held-out real images below the threshold; `same_scene`,
        [{first, second, by, split}], real images that show what a training image shows.
        `appearance`: see `metrics.appearance`. `counts`: {real, synthetic, held_out}.
        `verdicts`: [{question, word, because, rule}], see `verdict.verdicts`. `protocol`: how it was measured.

    Raises:
        InputError: bad input, too few pairs, weights that cannot be had, or `out` holds results and `resume` is false,
            or other results than these, or anything else.
    """
    if synthetic is None or masks is not None:
        of_images = {"judge": judge, "features": features, "cache": cache, "run": run}
        return _of_masks(real, synthetic, out, config, resume, masks, held_out, of_images)
    if held_out is not None:
        raise InputError("--held-out: goes with --masks; of pairs, what is held out is told by the splits of --real")
    out, judge, cache = to_path(out), to_path_or_none(judge, "--judge"), to_path_or_none(cache, "--cache")
    config = update(to_config(config), "evaluate", features=features)
    require_apart(out, real=real, synthetic=synthetic)
    require_apart(cache or out, "--cache", real=real, synthetic=synthetic)
    real = DataFolder.of(real, "--real", config.data).require_real()
    config = real.resolved(config)
    names = _names(config.evaluate.features)
    drawn_by = to_path_or_none(run, "--run")
    folders = (
        real,
        DataFolder.of(synthetic, "--synthetic", plain_settings(config.data)),
    )
    sets = _find(*folders, config)
    if drawn_by is not None:
        require_drawn_by(drawn_by, folders[1])
    tests = own_test_pairs(folders[0])
    where = find_device(device)
    precision = precision_on(where, config.evaluate.precision)
    with hold(out):
        claim = _claim(out, config, names, judge, sets, tests, precision, resume)
        if (out / "metrics.json").exists():
            finished = read_json(out / "metrics.json", dict[str, Any])
            note_in_cards(drawn_by, folders[1], finished)
            return finished
        set_tf32(where, precision)
        # weights that cannot be had are told before the judge is trained
        ready = {name: extractors.create(name, where) for name in names if name not in ("judge", "lpips")}
        lpips = perceptual.lpips_alex(where) if "lpips" in names else None
        claim.write()

        trusted = judge_of(folders[0], judge, out / "judge", config, resume, device)
        set_tf32(where, precision)  # training it had a precision of its own
        own, own_scores = own_error(trusted, tests)
        scores, others = measure_both(trusted, sets.synthetic, f"{len(sets.synthetic)} synthetic pairs")
        chosen = [embedder(trusted) if name == "judge" else ready[name] for name in names if name != "lpips"]
        chosen = [extractors.in_precision(each, where, precision) for each in chosen or [embedder(trusted)]]
        found = compare(sets, chosen, lpips, cache or out / "features", config)
        metrics: dict[str, Any] = {
            "quality": found.quality,
            "fit": _fit(scores, others, own),
            "novelty": found.novelty,
            "appearance": appearance(_some(sets.real, config), _some(sets.synthetic, config), config.evaluate.seed),
            "counts": _counts(sets),
            "protocol": _protocol(*folders, config, trusted, chosen, lpips is not None),
        }
        aside = [sets.real[place].name for place in set_aside(sets, config)]
        metrics["protocol"]["set_aside"] = aside
        metrics["verdicts"] = [asdict(each) for each in verdicts(metrics, read_result(trusted.run)["train"]["real"])]
        _write_tables(out, sets, scores, found)
        write_whole(out / "worst.png", gallery.best_and_worst(trusted, sets.synthetic, scores["dice"]).save)
        page.write(out / "report.html", metrics, sets, trusted, scores, own_scores, found, config)
        write_json(out / "metrics.json", metrics)  # last: with it the folder is finished
        note_in_cards(drawn_by, folders[1], metrics)
        notify(f"the report: {out / 'report.html'}")
        return metrics


def _of_masks(
    real: StrPath | DataFolder,
    synthetic: StrPath | DataFolder | None,
    out: StrPath,
    config: Settings,
    resume: bool,
    masks: StrPath | DataFolder | None,
    held_out: StrPath | DataFolder | None,
    of_images: Mapping[str, StrPath | None],
) -> dict[str, Any]:
    if masks is None or synthetic is not None:
        raise InputError("evaluate: give --synthetic, a folder of pairs, or --masks, a folder of masks, and not both")
    for name, value in of_images.items():
        if value is not None:
            raise InputError(f"--{name}: is of images, and --masks compares masks alone; leave one of the two out")
    return report_masks(masks, real, out, held_out, config, resume)


def _find(real: DataFolder, synthetic: DataFolder, config: Config) -> Sets:
    made = synthetic.pairs()
    pairs = real.pairs(config.data.split)
    for folder, listed, least in ((synthetic, made, 2), (real, pairs, copies.LEAST)):
        if len(listed) < least:
            raise InputError(f"{folder.path}: evaluation needs at least {'two' if least == 2 else 'four'} pairs")
    return Sets(pairs, made, held_out(real, pairs, config.data.split))


def _claim(
    out: Path,
    config: Config,
    names: list[str],
    judge: Path | None,
    sets: Sets,
    tests: Sequence[Pair],
    precision: str,
    resume: bool,
) -> Claim:
    """The right to `out`, which holds nothing yet, or this evaluation as far as it got."""
    depends: dict[str, set[str] | None] = {"data": {"split", "resolution", *READING}}
    depends["evaluate"] = set(EvaluateConfig.model_fields) - {"features"}  # noted as an option
    if judge is None:  # trained here
        depends["segment"] = None
    else:
        require_finished(judge)
    pairs = [*sets.real, *sets.synthetic, *sets.held_out, *tests]
    inputs = {
        "command": "evaluate",
        "--features": ",".join(names),
        "judge": hash_files([judge / WEIGHTS]) if judge is not None else None,
        "precision": precision,
        **_counts(sets),
        **note_files([path for pair in pairs for path in pair.files]),
        **reading(pairs),
    }
    return Claim(out, config, depends, inputs, resume, earlier=lambda: _is_earlier(out, names, sets))


class _Named(TypedDict):
    name: str


class _Protocol(TypedDict):
    extractors: list[_Named]


class _Earlier(TypedDict):
    """The part of `metrics.json` that tells which evaluation it is."""

    counts: dict[str, int]
    protocol: _Protocol


def _is_earlier(out: Path, names: list[str], sets: Sets) -> bool:
    """Whether a folder without a mark is this evaluation by an earlier version, finished or not."""
    parts = visible(out) - {"stage.json", "settings.yaml", "log.txt"}  # a study's notes
    tables = parts - {"judge", "features"}
    cached = all(re.fullmatch(r"[0-9a-f]{16}(\.npy)?", name) for name in visible(out / "features"))
    judged = "judge" not in parts or holds_run(out / "judge", "segment")
    told = not tables or (tables <= RESULTS and begun_earlier(out, "evaluate"))
    ours = bool(parts) and cached and judged and told
    if ours and "metrics.json" in parts:
        metrics = read_json(out / "metrics.json", _Earlier)
        used = {"alexnet" if name == "lpips" else name for name in names}
        known = {entry["name"] for entry in metrics["protocol"]["extractors"]}
        scored = read_fits(out / "fit.csv").keys() == {pair.name for pair in sets.synthetic}
        if metrics["counts"] != _counts(sets) or not used <= known or not scored:
            raise InputError(f"--out {out}: holds an evaluation of other pairs or features; name another folder")
    return ours


def _counts(sets: Sets) -> dict[str, int]:
    return {"real": len(sets.real), "synthetic": len(sets.synthetic), "held_out": len(sets.held_out)}


def _fit(scores: dict[str, Scores], others: dict[str, dict[str, float]], own: dict[str, Any]) -> dict[str, Any]:
    fit = {name: interval(values) for name, values in of_lesions(scores).items()}
    ratio = fit["dice"]["mean"] / own["dice"] if own["dice"] else None
    healthy, classes = of_healthy(scores), of_classes(scores, own)
    return {
        **fit,
        **others,
        **({"classes": classes} if classes else {}),
        "judge": own,
        "ratio": ratio,
        **({} if healthy is None else {"healthy": healthy}),
    }


def _write_tables(out: Path, sets: Sets, scores: dict[str, Scores], found: Comparison) -> None:
    columns = {name: [f"{value:.6f}" for value in values] for name, values in scores.items()}
    names = [pair.name for pair in sets.synthetic]
    write_text(out / "fit.csv", to_csv(["name", *columns], zip(names, *columns.values(), strict=True)))
    _novelty_table(out / "novelty.csv", found.nearest, found.novelty["threshold"])


def _names(listed: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    if not names:
        raise InputError(f"--features {listed!r}: names no extractor; choose from {extractors.KNOWN}")
    return names


def _some(pairs: Sequence[Pair], config: Config) -> NDArray[np.uint8]:
    """Images at the size that the generator was shown, so that sharpness is compared like with like."""
    if len(pairs) > MOST_LOOKED_AT:
        order = np.random.default_rng(config.evaluate.seed).permutation(len(pairs))[:MOST_LOOKED_AT]
        pairs = [pairs[i] for i in sorted(order)]
    return load_images([pair.image for pair in pairs], config.data.resolution)


def _protocol(
    real: DataFolder, synthetic: DataFolder, config: Config, judge: Judge, chosen: Sequence[Extractor], lpips: bool
) -> dict[str, Any]:
    """Everything that another needs to take the same figures."""
    used = [
        {
            "name": extractor.name,
            "weights": extractor.key,
            "squared_to": extractor.resolution or config.data.resolution,
            "then_resized_to": extractor.resizing,
        }
        for extractor in chosen
    ]
    if lpips:
        size = max(config.data.resolution, perceptual.LEAST)
        entry = {"name": "alexnet", "weights": "torchvision ImageNet, LPIPS 0.1", "squared_to": config.data.resolution}
        used.append({**entry, "then_resized_to": "none" if size == config.data.resolution else f"{size} px, bilinear"})
    return {
        "version": __version__,
        "real": str(real.path.resolve()),
        "split": config.data.split,
        "synthetic": str(synthetic.path.resolve()),
        "squaring": "Lanczos (Pillow), other aspect ratios squashed; masks by area, cut at one half",
        "extractors": used,
        "judge": {"run": str(judge.run.resolve()), "resolution": judge.resolution},
        "precision": judge.precision,
        "seed": config.evaluate.seed,
        "intervals": f"95 %, bootstrap over images; {RESAMPLES} resamples for fit, {distances.RESAMPLES} for quality "
        f"(40 for large Fréchet distances), at most {distances.MOST_COMPARED} images of a kind",
        "neighbours": "precision and recall 3, density and coverage 5, of at most "
        f"{distances.MANIFOLD} images of a kind; novelty {copies.NEIGHBOURS}",
        "novelty": f"the whole image at {copies.SIDE} px in four flips, {local_matches.POINTS} details at most at "
        f"{local_matches.SIDE} px, mirrored or not"
        + ("" if chosen[0].name == "judge" else f", and the {chosen[0].name} features in four flips"),
        "shuffled": f"at most {SHUFFLED} pairs",
        "appearance": f"at most {MOST_LOOKED_AT} images of a kind at {config.data.resolution} px",
    }


def _novelty_table(path: Path, nearest: Sequence[dict[str, Any]], threshold: float) -> None:
    names = [name for name in nearest[0] if name != "index"]
    rows = (
        [
            *(f"{row[name]:.6f}" if isinstance(row[name], float) else row[name] for name in names),
            int(row["distance"] < threshold),
        ]
        for row in nearest
    )
    write_text(path, to_csv([*names, "flagged"], rows))
