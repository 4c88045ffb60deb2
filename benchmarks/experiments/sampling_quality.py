"""Quality against time of the samplers, on a trained run.

    python benchmarks/experiments/sampling_quality.py --run RUN --masks DATA --judge JUDGE [--curve PNG]

Every variant draws the same masks (of `--split`, by default validation) from the same noise, all variants in turn for
each seed, with the run's own guidance. Two figures of each set: the fit to its masks (Dice of the judge, a segmentation
network that saw real pairs only) and the kernel distance of the judge's features to those of the real training images,
which is what stands in for KID without Inception's weights. `by seed` differences from the straightforward sampler tell
a cost from chance.

The real images with those masks are the reference: what a perfect generator would reach. A variant chosen on one split
is to be confirmed on another: `--split test --only "UniPC, 8 steps, guided at 0.0 to 0.8"`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion.data.arrays import load_images, load_pairs, to_images
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import square
from siamese_diffusion.data.pairs import prompt_of
from siamese_diffusion.diffusion.checkpoint import load_trained
from siamese_diffusion.diffusion.latents import mask_hint
from siamese_diffusion.evaluation.judge import Judge, embedder, judge_of
from siamese_diffusion.evaluation.metrics.distances import kernel_distance
from siamese_diffusion.evaluation.metrics.mask_fit import pair_scores
from siamese_diffusion.files import write_json
from siamese_diffusion.segmentation.inference import probabilities

sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))  # images are drawn as where their speed is measured
from drawing import STRAIGHTFORWARD, Sampler, Task

STEPS = (4, 6, 8, 10, 12, 16, 25)
SOLVERS = {"dpm": "DPM-Solver++", "unipc": "UniPC"}
INTERVALS = ((0.0, 0.8), (0.0, 0.9), (0.2, 0.9), (0.3, 1.0))
VARIANTS = (
    STRAIGHTFORWARD,
    *(Sampler(f"{SOLVERS[name]}, {steps} steps", name, steps) for name in SOLVERS for steps in STEPS),
    *(
        Sampler(f"UniPC, {steps} steps, guided at {low} to {high}", "unipc", steps, interval=(low, high))
        for steps in (8, 12)
        for low, high in INTERVALS
    ),
)

Row = dict[str, Any]


class Scale:
    """The judge and what it thinks of images: uint8 (N, R, R, 3) of any R to their fit and distance."""

    def __init__(self, judge: Judge, data: Path, masks: NDArray[np.bool_]) -> None:
        self.judge, self.masks = judge, masks
        self.embed = embedder(judge).embed
        self.real = self.features(
            load_images([pair.image for pair in DataFolder(data).pairs("train")], judge.resolution)
        )

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batches = torch.from_numpy(images).movedim(3, 1).split(32)
            return torch.cat([self.embed(batch).float().cpu() for batch in batches]).numpy()

    def weigh(self, images: NDArray[np.uint8]) -> tuple[float, float]:
        """Mean Dice with the masks, and kernel distance to the real training images."""
        sized = np.stack([square(image, self.judge.resolution) for image in images])
        fit = pair_scores(probabilities(self.judge.network, sized, 16), self.masks)["dice"].mean()
        return float(fit), kernel_distance(self.real, self.features(sized)).estimate.value


def chosen(endings: Sequence[str]) -> tuple[Sampler, ...]:
    """The straightforward sampler and those variants whose names end so; none given: all."""
    return tuple(v for v in VARIANTS if not endings or v == STRAIGHTFORWARD or v.name.endswith(tuple(endings)))


def quality(
    run: Path,
    data: Path,
    judge: Path,
    count: int,
    seeds: int,
    out: Path | None = None,
    split: str = "val",
    variants: Sequence[Sampler] = VARIANTS,
) -> dict[str, Any]:
    """Fit, distance and seconds an image of every variant and seed.

    Args:
        run: of `train`.
        data: real pairs with the splits `train` and `split`.
        judge: run of `segment` on real pairs.
        count: masks.
        seeds: how often all is drawn.
        out: JSON, rewritten after every set of images.
        split: whose masks are drawn.
        variants: the straightforward one first.
    """
    trained = load_trained(run)
    config, backbone = trained.config, trained.backbone
    device = next(trained.model.parameters()).device
    folder = DataFolder(data)
    pairs = folder.pairs(split)[:count]
    images, masks = load_pairs(pairs, config.data.resolution)
    scale = Scale(judge_of(folder, judge, judge, config, False, str(device)), data, np.zeros((0, 0, 0), bool))
    side = scale.judge.resolution
    scale.masks = np.stack([square(mask, side) for mask in load_pairs(pairs, side)[1]])
    text = backbone.embed([prompt_of(config.data.label)] * len(pairs))
    task = Task(
        trained.model,
        backbone.scheduler,
        mask_hint(torch.from_numpy(masks)),
        text,
        backbone.embed([""]).expand_as(text),
        config.sample.guidance,
        config.sample.mask_guidance,
    )
    shape = len(pairs), trained.model.unet.config.in_channels, *2 * (config.data.resolution // backbone.factor,)
    real = dict(zip(("fit", "distance"), scale.weigh(images), strict=True))
    rows: list[Row] = [
        {"variant": variant.name, "scheduler": variant.scheduler, "steps": variant.steps, "plain": _plain(variant)}
        | {key: [] for key in ("seconds", "fit", "distance")}
        for variant in variants
    ]
    found: dict[str, Any] = {
        "run": str(run),
        "split": split,
        "count": len(pairs),
        "guidance": [task.guidance, task.mask_guidance],
        "threads": torch.get_num_threads(),
        "real": real,
        "rows": rows,
    }
    print(f"the real images: fit {100 * real['fit']:.1f}, distance {real['distance']:.4f}", file=sys.stderr)
    task.draw(variants[-1], torch.zeros(shape), min(8, len(pairs)))  # warm
    for seed in range(seeds):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        for variant, row in zip(variants, rows, strict=True):
            start = time.perf_counter()
            drawn = to_images(backbone.decode(task.draw(variant, noise, len(pairs))))
            row["seconds"].append((time.perf_counter() - start) / len(pairs))
            fit, distance = scale.weigh(drawn)
            row["fit"].append(fit)
            row["distance"].append(distance)
            print(f"{seed} {row['variant']:40} {row['seconds'][-1]:.3f} s {fit:.4f} {distance:.4f}", file=sys.stderr)
            if out is not None:
                write_json(out, found)
    _table(rows)
    return found


def _plain(variant: Sampler) -> bool:
    """Whether nothing but the solver differs."""
    return variant.interval == (0.0, 1.0)


def _table(rows: list[Row]) -> None:
    print(f"\n{'':40} s an image  faster  fit Dice (spread)  by seed       distance (spread)  by seed", file=sys.stderr)
    for row in rows:
        faster = statistics.median(a / b for a, b in zip(rows[0]["seconds"], row["seconds"], strict=True))
        line = f"{row['variant']:40} {statistics.median(row['seconds']):10.3f} {faster:7.2f}"
        for key, factor, digits in (("fit", 100, 1), ("distance", 1, 4)):
            apart = [a - b for a, b in zip(row[key], rows[0][key], strict=True)]
            (mean, spread), (shift, around) = _mean(row[key]), _mean(apart)
            line += f"  {factor * mean:7.{digits}f} ({factor * spread:.{digits}f})"
            line += f"  {factor * shift:+.{digits}f} ({factor * around:.{digits}f})"
        print(line, file=sys.stderr)


def _mean(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over the seeds (0 for one seed)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def curve(found: dict[str, Any], path: Path) -> None:
    """A PNG of fit and distance against seconds an image; bars are standard deviations over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    first, *rest = found["rows"]
    for axis, key, label in zip(
        axes,
        ("fit", "distance"),
        ("mask fit, Dice (higher is better)", "kernel distance (lower is better)"),
        strict=True,
    ):
        axis.axhline(found["real"][key], color="0.6", linestyle=":", label="the real images")
        centre, spread = _mean(first[key])
        axis.axhspan(centre - spread, centre + spread, color="0.92", zorder=0)
        groups = {name: [row for row in rest if row["scheduler"] == name and row["plain"]] for name in SOLVERS}
        for name, rows in groups.items():
            _points(axis, rows, key, label=SOLVERS[name], marker="o", linestyle="-")
            for row in rows:
                axis.annotate(row["steps"], _place(row, key), xytext=(4, 4), textcoords="offset points", fontsize=8)
        others = [row for row in rest if not row["plain"]]
        _points(axis, others, key, label="UniPC, guided in part", marker="x", linestyle="")
        for row in others:
            text = row["variant"].removeprefix("UniPC, ").replace(" steps", "")
            axis.annotate(text, _place(row, key), xytext=(4, -8), textcoords="offset points", fontsize=5)
        _points(
            axis,
            [first],
            key,
            label="straightforward: DDIM, 50 steps, one by one",
            marker="*",
            linestyle="",
            color="black",
        )
        axis.set(xscale="log", xlabel="seconds an image", ylabel=label)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{found['count']} images, {len(first['fit'])} seeds, {found['threads']} threads")
    figure.savefig(path, dpi=130)


def _points(axis: Any, rows: list[Row], key: str, **style: Any) -> None:
    places = [_place(row, key) for row in rows]
    spread = [_mean(row[key])[1] for row in rows]
    axis.errorbar([x for x, _ in places], [y for _, y in places], yerr=spread, capsize=2, linewidth=1, **style)


def _place(row: Row, key: str) -> tuple[float, float]:
    return statistics.median(row["seconds"]), statistics.mean(row[key])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--masks", type=Path, required=True, help="pairs with a train and a val split")
    parser.add_argument("--judge", type=Path, required=True, help="a run of `segment` on real pairs")
    parser.add_argument("--count", type=int, default=8, help="masks, and images of a variant and seed")
    parser.add_argument("--split", default="val", help="whose masks are drawn")
    parser.add_argument(
        "--only", nargs="+", default=[], help="variants whose names end so, beside the straightforward one"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON, written as it goes along")
    parser.add_argument("--curve", type=Path, help="PNG of quality against seconds")
    arguments = parser.parse_args()
    where = arguments.run, arguments.masks, arguments.judge
    variants = chosen(arguments.only)
    found = quality(*where, arguments.count, arguments.seeds, arguments.out, arguments.split, variants)
    if arguments.curve:
        curve(found, arguments.curve)
    print(json.dumps(found))
