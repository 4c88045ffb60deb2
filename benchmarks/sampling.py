"""Images a second of the original's sampler and of ours: `python benchmarks/sampling.py --size tiny|medium|sd15`.

The straightforward sampler draws one image at a time through 50 guided DDIM steps and embeds the hint anew in each. Each
variant adds one change to the one before; all run in turn, on the same weights. What keeps the result (the hint once,
batches) is asserted to keep it. FLOPs of an image are those of a pass, counted on tensors without data, times the passes
that the sampler makes. `--flops` runs nothing else, which Stable Diffusion's size takes on a processor.

With `--run RUN --masks DATA --judge JUDGE` see `sampling_quality.py`: what the changes cost in quality, on a trained run.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from train_step import SIZES, Bench, Counted, Size

from siamese_diffusion.diffusion.backbone import sd15_scheduler
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.diffusion.schedule import Schedule

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    name: str
    scheduler: str = "dpm"
    steps: int = 50
    batch: int = 8
    hint_once: bool = True
    interval: tuple[float, float] = (0.0, 1.0)


STRAIGHTFORWARD: Variant = Variant("straightforward", "ddim", batch=1, hint_once=False)
VARIANTS = (
    STRAIGHTFORWARD,
    Variant("hint embedded once", "ddim", batch=1),
    Variant("in batches", "ddim"),
    Variant("DPM-Solver++, 16 steps", steps=16),
    Variant("DPM-Solver++, 12 steps", steps=12),
    Variant("DPM-Solver++, 8 steps", steps=8),
    Variant("UniPC, 8 steps", "unipc", 8),
    Variant("UniPC, 8 steps, guided at 0 to 0.8", "unipc", 8, interval=(0.0, 0.8)),
)


GUIDANCE = 9.0
"""On the prompt, as in the paper."""


@dataclass(frozen=True)
class Task:
    """What to draw, with which weights."""

    model: Any
    schedule: Any
    hints: Tensor
    text: Tensor
    empty: Tensor
    guidance: float
    mask_guidance: float

    def draw(self, variant: Variant, noise: Tensor, count: int) -> Tensor:
        """Latents of the first `count` masks."""
        drawn = []
        for start in range(0, count, variant.batch):
            part = slice(start, min(count, start + variant.batch))
            predict = self._predict(variant, part)
            drawn.append(denoise(predict, noise[part], self.schedule, variant.scheduler, variant.steps))
        return torch.cat(drawn)

    def _predict(self, variant: Variant, part: slice) -> Predict:
        hints, text, empty = self.hints[part], self.text[part], self.empty[part]

        def fresh() -> Predict:
            return guided(self.model, hints, text, empty, self.guidance, self.mask_guidance, variant.interval)

        if variant.hint_once:
            return fresh()
        return lambda noisy, t: fresh()(noisy, t)


class Tally:
    """Stands for the networks in the sampler and counts the rows that pass through them."""

    def __init__(self) -> None:
        self.schedule = Schedule(sd15_scheduler().alphas_cumprod, "epsilon")
        self.hints = self.passes = 0

    def embed_hint(self, hint: Tensor) -> Tensor:
        self.hints += len(hint)
        return hint

    def encode(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        self.passes += len(noisy)
        return noisy

    def control(self, *_: Tensor, features: Tensor) -> Tensor:
        return features

    def decode(self, encoded: Tensor, text: Tensor, control: Tensor) -> Tensor:
        return encoded


def flops(size: Size, guidance: float, count: int) -> dict[str, float]:
    """TFLOP an image of every variant, the first stage's decoder left out."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        bench = Bench(size, "ours", fake=True)
        noisy, text = bench.noise[:1], bench.text[:1]
        with Counted() as hint:
            features = bench.model.embed_hint(bench.mask[:1])
        with Counted() as one:
            t = bench.timesteps[:1]
            control = bench.model.control(noisy, t, text, features=features)
            bench.model.decode(bench.model.encode(noisy, t, text), text, control)
    found = {}
    for variant in VARIANTS:
        tally = Tally()
        rows = torch.zeros(count, 4, 2, 2)
        Task(tally, sd15_scheduler(), rows, rows, rows, guidance, 1.0).draw(variant, rows, count)
        found[variant.name] = (tally.hints * hint.flops + tally.passes * one.flops) / count / 1e12
    print(f"a pass {one.flops / 1e12:.4g} TFLOP, a hint {hint.flops / 1e12:.4g}", file=sys.stderr)
    return found


def speed(task: Task, noise: Tensor, count: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds an image, in turn, and how many times as fast as the straightforward sampler."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    same: dict[str, Tensor] = {}
    for _ in range(repeats):
        for variant in VARIANTS:
            few = min(count, 2 if variant.batch == 1 else count)
            start = time.perf_counter()
            drawn = task.draw(variant, noise, few)
            seconds[variant.name].append((time.perf_counter() - start) / few)
            if variant.scheduler == "ddim":
                same[variant.name] = drawn[:2]
    reference = same["straightforward"]
    for name, drawn in same.items():
        worst = float((drawn - reference).abs().max() / reference.square().mean().sqrt())
        assert worst < 1e-2, (name, worst)  # fp32 over 50 guided steps
    rows = []
    for variant in VARIANTS:
        ratios = [a / b for a, b in zip(seconds["straightforward"], seconds[variant.name], strict=True)]
        median = statistics.median(seconds[variant.name])
        rows.append(
            {
                "variant": variant.name,
                "seconds": median,
                "faster": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
            }
        )
    return rows


def main(name: str, count: int, repeats: int, only_flops: bool) -> list[dict[str, Any]]:
    """Print a table on standard error."""
    size = SIZES[name]
    tflop = flops(size, GUIDANCE, count)
    if only_flops:
        for variant, each in tflop.items():
            less = tflop[STRAIGHTFORWARD.name] / each
            print(f"{variant:40} {each:8.3f} TFLOP an image ({less:.2f} times less)", file=sys.stderr)
        return [{"variant": variant, "tflop": each} for variant, each in tflop.items()]
    bench = Bench(size, "ours")
    task_text = bench.text[:1].expand(count, -1, -1)
    hints = (torch.rand(count, 1, size.resolution, size.resolution) > 0.7).float().expand(-1, 3, -1, -1)
    task = Task(bench.model.eval(), sd15_scheduler(), hints, task_text, torch.zeros_like(task_text), GUIDANCE, 1.0)
    noise = torch.randn(count, 4, size.resolution // 8, size.resolution // 8)
    rows = speed(task, noise, count, repeats)
    for row in rows:
        low, high = row["range"]
        row["tflop"] = tflop[row["variant"]]
        print(
            f"{row['variant']:40} {row['seconds']:8.3f} s an image  {row['faster']:5.2f} ({low:.2f} to {high:.2f})"
            f"  {row['tflop']:8.4f} TFLOP",
            file=sys.stderr,
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--count", type=int, default=8, help="images a variant")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flops", action="store_true", help="count FLOPs only")
    parser.add_argument("--run", type=Path, help="a trained run, for quality")
    parser.add_argument("--masks", type=Path, help="pairs with a train and a val split")
    parser.add_argument("--judge", type=Path, help="a run of `segment` on real pairs")
    parser.add_argument("--split", default="val", help="whose masks are drawn")
    parser.add_argument("--only", nargs="+", default=[], help="variants whose names end so, beside the straightforward one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON of the quality, written as it goes along")
    parser.add_argument("--curve", type=Path, help="PNG of quality against seconds")
    arguments = parser.parse_args()
    if arguments.run:
        from sampling_quality import chosen, curve, quality

        variants = chosen(arguments.only)
        where = arguments.run, arguments.masks, arguments.judge
        found = quality(*where, arguments.count, arguments.seeds, arguments.out, arguments.split, variants)
        if arguments.curve:
            curve(found, arguments.curve)
        print(json.dumps(found))
    else:
        print(json.dumps(main(arguments.size, arguments.count, arguments.repeats, arguments.flops)))
