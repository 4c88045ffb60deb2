"""Images a second of the original's sampler and of ours.

    python benchmarks/speed/sampling.py [--size tiny|medium|sd15] [--flops]

The straightforward sampler draws one image at a time through 50 guided DDIM steps and embeds the hint anew in each.
Each variant adds one change to the one before; all run in turn, on the same weights. What keeps the result (the hint
once, batches) is asserted to keep it. FLOPs of an image are those of a pass, counted on tensors without data, times the
passes that the sampler makes. `--flops` runs nothing else, which Stable Diffusion's size takes on a processor.
"""

import argparse
import json
import statistics
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from bench import SIZES, Bench, Counted, Size
from drawing import GUIDANCE, STRAIGHTFORWARD, Sampler, Task
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from siamese_diffusion.diffusion.backbone import sd15_scheduler
from siamese_diffusion.diffusion.schedule import Schedule

VARIANTS = (
    STRAIGHTFORWARD,
    Sampler("hint embedded once", "ddim", batch=1),
    Sampler("in batches", "ddim"),
    Sampler("DPM-Solver++, 16 steps", steps=16),
    Sampler("DPM-Solver++, 12 steps", steps=12),
    Sampler("DPM-Solver++, 8 steps", steps=8),
    Sampler("UniPC, 8 steps", "unipc", 8),
    Sampler("UniPC, 8 steps, guided at 0 to 0.8", "unipc", 8, interval=(0.0, 0.8)),
)


class Tally:
    """Stands for the networks in the sampler and counts the rows that pass through them."""

    unet = SimpleNamespace(dtype=torch.float32)

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
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.size, arguments.count, arguments.repeats, arguments.flops)))
