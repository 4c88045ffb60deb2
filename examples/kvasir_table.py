"""Tables of docs/results/kvasir.md from the runs of `kvasir.sh`: `python examples/kvasir_table.py RUNS`."""

import statistics
import sys
from pathlib import Path

from siamese_diffusion.files import read_json

METHODS = ("mask-only", "siamese")
SEEDS = (0, 1, 2)


def main(runs: Path) -> None:
    """Print Markdown: mask fit of each synthetic set, then segmentation by arm with the paired difference to real."""
    print("| pairs | method | masks | fit Dice (95 % interval) | shuffled masks | judge on real test | ratio |")
    print("|---|---|---|---|---|---|---|")
    for pairs in (100, 400):
        for method in METHODS:
            for masks in ("real", "random"):
                path = runs / f"score-{method}-{pairs}-{masks}" / "metrics.json"
                if path.exists():
                    fit = read_json(path)["fit"]
                    dice = fit["dice"]
                    print(
                        f"| {pairs} | {method} | {masks} | {100 * dice['mean']:.1f} ({100 * dice['low']:.1f} to "
                        f"{100 * dice['high']:.1f}) | {100 * fit['shuffled']['mean']:.1f} | "
                        f"{100 * fit['judge']['dice']:.1f} | {fit['ratio']:.2f} |"
                    )
    print("\n| pairs | trained on | mDice | mIoU | change in mDice, by seed | change in mIoU |")
    print("|---|---|---|---|---|---|")
    for pairs in (100, 400):
        real = _scores(runs, "real", pairs)
        for arm in ("real", *METHODS):
            scores = _scores(runs, arm, pairs)
            if not scores or len(scores) != len(real):
                continue
            change = {key: [100 * (a[key] - b[key]) for a, b in zip(scores, real, strict=True)] for key in ("mDice", "mIoU")}
            each = ", ".join(f"{value:+.1f}" for value in change["mDice"])
            difference = "" if arm == "real" else f"{_spread(change['mDice'], '+')} ({each})"
            name = "real" if arm == "real" else f"real + {arm}"
            cells = [_spread([100 * score[key] for score in scores]) for key in ("mDice", "mIoU")]
            iou = "" if arm == "real" else _spread(change["mIoU"], "+")
            print(f"| {pairs} | {name} | {cells[0]} | {cells[1]} | {difference} | {iou} |")


def _scores(runs: Path, arm: str, pairs: int) -> list[dict[str, float]]:
    paths = [runs / f"unet-{arm}-{pairs}-seed{seed}" / "metrics.json" for seed in SEEDS]
    return [read_json(path)["mean"] for path in paths if path.exists()]


def _spread(values: list[float], sign: str = "") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
