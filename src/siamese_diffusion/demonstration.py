"""The `demo` command: the main job end to end on made-up endoscopy, in minutes on a laptop, with one page to show for it.

The small backbone it starts from was trained on phantoms of other seeds and ships with the package (the command is in
docs/backbones.md); on real data `train` makes its own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from siamese_diffusion.config import Config, build_config
from siamese_diffusion.data.arrays import load_pairs
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.evaluation.scores import read_fits
from siamese_diffusion.files import write_json
from siamese_diffusion.progress import say
from siamese_diffusion.report import Figure, Section, Table, labelled_rows, loss_curves, write_report
from siamese_diffusion.segmentation.segment import segment

RESOLUTION = 64

MIN_DICE = 0.7
"""Pairs that obey less are left out of segmentation."""

SIZES: dict[str, dict[str, Any]] = {
    "smallest": {
        "pairs": 16,
        "test": 12,
        "train": {"steps": 10, "batch_size": 4, "warmup": 2, "sample_every": 10, "log_every": 2},
        "sample": {"scheduler": "dpm", "steps": 8},
        "segment": {"steps": 12, "batch_size": 8, "warmup": 2, "sample_every": 6, "log_every": 2},
    },
    "default": {
        "pairs": 64,
        "test": 64,
        # so few steps want more of the hint embedding than is safe otherwise (docs/backbones.md)
        "train": {"steps": 220, "batch_size": 8, "warmup": 20, "hint_rate": 1.0, "sample_every": 220, "log_every": 10},
        "sample": {"scheduler": "dpm", "steps": 12, "mask_guidance": 2.0},
        "segment": {"steps": 90, "batch_size": 8, "warmup": 20, "sample_every": 45},
    },
}

METHODS = ("mask-only", "siamese")


def demo(out: Path = Path("demo"), size: str = "default", device: str = "auto") -> dict[str, Any]:
    """Train both methods on phantoms, draw pairs, keep those that obey, and train a segmentation network with and without.

    Args:
        out: folder to write; `report.html` in it is the page, `summary.json` the figures.
        size: "smallest" (the whole chain at its shortest; its images and scores mean nothing) or "default".
        device: "auto", "cpu", "cuda" ...

    Returns:
        `report`; `fit` of all drawn pairs and `kept` (how many obey) by method; `segmentation` by arm; `seconds` by stage.

    Raises:
        InputError: an unknown size, or `out` is in use.
    """
    if size not in SIZES:
        raise InputError(f"--size {size}: unknown; sizes: {', '.join(SIZES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: already in use; name an empty or a new folder")
    plan = SIZES[size]
    values: dict[str, Any] = {section: plan[section] for section in ("train", "sample")}
    values["data"] = {"resolution": RESOLUTION}
    values["segment"] = {**plan["segment"], "resolution": RESOLUTION}
    config = build_config(values, f"demo {size}")
    seconds: dict[str, float] = {}
    real = out / "pairs"

    with _stage("phantoms", seconds):
        _phantoms(real, plan["pairs"], plan["test"])
    backbone = str(resources.files("siamese_diffusion") / "weights" / "phantom")
    for method in METHODS:
        with _stage(f"train {method}", seconds):
            train(real, out / method, backbone, method, config, device=device)
        with _stage(f"sample {method}", seconds):
            sample(out / method, real, out / f"{method}-pairs", random_masks="flip-scale-shift", device=device)

    with _stage("segment real", seconds):
        arms = {"real": segment(real, out / "segment-real", [real], None, config, device=device)}
    scores: dict[str, dict[str, Any]] = {}
    kept: dict[str, int] = {}
    for method in METHODS:
        scored, obedient = out / f"score-{method}", out / f"{method}-kept"
        with _stage(f"score {method}", seconds):
            scores[method] = evaluate(
                real,
                out / f"{method}-pairs",
                scored,
                config,
                out / "segment-real",
                device=device,
                cache=out / "features",
            )
            # where no pair obeys, the best one stays: the page shows how it went, and is not lost
            best = max(dice for dice, _ in read_fits(scored / "fit.csv").values())
            kept[method] = filter_(scored, obedient, min(MIN_DICE, best))["kept"]
        with _stage(f"segment {method}", seconds):
            arms[method] = segment(real, out / f"segment-{method}", [real], [obedient], config, device=device)

    summary = {
        "report": str(out / "report.html"),
        "size": size,
        "fit": {method: scores[method]["fit"] for method in METHODS},
        "kept": kept,
        "segmentation": {arm: result["mean"] for arm, result in arms.items()},
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
    }
    _report(out, config, plan, summary)
    write_json(out / "summary.json", summary)
    say(f"the report: {out / 'report.html'}")
    return summary


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    say(f"-- {name}")
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def _phantoms(folder: Path, pairs: int, test: int) -> None:
    """Training, validation and test pairs in one folder, with the lists in `splits.json`."""
    validation = max(4, pairs // 4)
    make_phantoms(folder, pairs + validation + test, RESOLUTION, seed=1)
    names = [pair.name for pair in DataFolder(folder).pairs()]
    lists = {
        "train": names[:pairs],
        "val": names[pairs : pairs + validation],
        "test": names[pairs + validation :],
    }
    write_json(folder / "splits.json", lists)


def _report(out: Path, config: Config, plan: dict[str, Any], summary: dict[str, Any]) -> None:
    segmentation, fit = summary["segmentation"], summary["fit"]
    gain = 100 * (segmentation["siamese"]["mDice"] - segmentation["real"]["mDice"])
    judge = fit["siamese"]["judge"]
    smallest = summary["size"] == "smallest"
    verdict = (
        f"With Siamese-Diffusion's pairs that obey their masks the U-Net's mean Dice on {plan['test']} held-out phantoms "
        f"changed by {gain:+.1f} points (one seed: a demonstration, not evidence). "
        f"A network trained on real pairs finds the lesion it was asked for with a Dice of "
        f"{fit['siamese']['dice']['mean']:.2f} in the synthetic images, and of {judge['dice']:.2f} in real ones."
    )
    if smallest:
        verdict = "The smallest size runs every stage in a handful of steps; its images and scores mean nothing. " + verdict
    pictures: dict[str, list[Any]] = {"mask": [], **{method: [] for method in METHODS}}
    real_images, _ = load_pairs(DataFolder(out / "pairs").pairs("train")[:8], RESOLUTION)
    for method in METHODS:
        images, masks = load_pairs(DataFolder(out / f"{method}-pairs").pairs()[:8], RESOLUTION)
        pictures[method] = list(images)
        pictures["mask"] = [(mask[..., None].repeat(3, -1) * 255).astype("uint8") for mask in masks]
    sections = [
        Section(
            "What it drew",
            "Each column is one mask, varied at random from a training mask, and the images the two methods drew for it. "
            "The last row shows phantoms of the training set, for comparison.",
            figures=[
                Figure(
                    labelled_rows({**pictures, "real": list(real_images)}),
                    "Masks, synthetic images by mask-only ControlNet and by Siamese-Diffusion, and training images.",
                )
            ],
        ),
        Section(
            "Do the images obey their masks?",
            "A segmentation network that has seen real pairs only looks at each synthetic image. Dice is the overlap of "
            "what it finds with the mask the image was drawn for, from 0 to 100. Against shuffled masks it shows what "
            "chance gives; its Dice on real test images is there for scale. Pairs below "
            f"{percent(MIN_DICE)} are left out of what follows (the best one stays).",
            tables=[
                Table(
                    ["", "Dice", "95 % interval", "shuffled masks", "same network, real test images", "kept"],
                    [
                        [
                            method,
                            percent(fit[method]["dice"]["mean"]),
                            f"{percent(fit[method]['dice']['low'])} to {percent(fit[method]['dice']['high'])}",
                            percent(fit[method]["shuffled"]["mean"]),
                            percent(fit[method]["judge"]["dice"]),
                            f"{summary['kept'][method]} of {plan['pairs']}",
                        ]
                        for method in METHODS
                    ],
                )
            ],
        ),
        Section(
            "Does segmentation improve?",
            f"The same U-Net, trained for the same number of steps on {plan['pairs']} real pairs, and on them with the "
            "synthetic ones that were kept; tested on phantoms it never saw.",
            tables=[
                Table(
                    ["trained on", "mDice", "mIoU", "change in mDice"],
                    [
                        [
                            "real" if arm == "real" else f"real + {arm}",
                            percent(scores["mDice"]),
                            percent(scores["mIoU"]),
                            "" if arm == "real" else f"{100 * (scores['mDice'] - segmentation['real']['mDice']):+.1f}",
                        ]
                        for arm, scores in segmentation.items()
                    ],
                    "One seed each. For a claim, repeat with several seeds; the spread between seeds is often as large "
                    "as the difference.",
                )
            ],
        ),
        Section(
            "How training went",
            "L_m is the error of Mask-Diffusion, L_i that of Image-Diffusion, L_c their disagreement (it starts at zero and "
            "grows with the weight of the image), L_a the online augmentation, which sets in after a third of the steps.",
            figures=[
                Figure(
                    loss_curves(
                        {method: out / method / "log.jsonl" for method in METHODS},
                        ["mask", "image", "consistency", "augmentation"],
                    ),
                    "Loss terms over the training steps.",
                )
            ],
        ),
        Section(
            "What was run, and how long it took",
            f"{config.train.steps} training steps of {config.train.batch_size} pairs at {RESOLUTION} px for each method; "
            f"{config.sample.scheduler} sampling, {config.sample.steps} steps; {config.segment.steps} steps for each U-Net "
            f"of {config.segment.batch_size} pairs.",
            tables=[
                Table(
                    ["stage", "seconds"],
                    [
                        *([stage, f"{value:.0f}"] for stage, value in summary["seconds"].items()),
                        ["total", f"{sum(summary['seconds'].values()):.0f}"],
                    ],
                )
            ],
        ),
    ]
    write_report(out / "report.html", "Siamese-Diffusion: demonstration on made-up endoscopy", verdict, sections)
