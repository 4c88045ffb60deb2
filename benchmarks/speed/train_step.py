"""A training step as the original does it against ours.

    python benchmarks/speed/train_step.py [--size tiny|medium|sd15] [--count]

Both sides hold the same weights and take the same batch, in turn, in one run; their losses are asserted equal to 1e-5.
The straightforward side runs VAE and text encoder in every step, deep-copies both networks, gives each branch passes of
its own, with the mask a second time inside the image branch, augments the whole batch and checkpoints activations. At
Stable Diffusion 1.5's size each side has a process of its own, so that it fits 24 GiB.

`--count` runs nothing: it counts FLOPs and live bytes on tensors without data, and what each change gives, at any size.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from bench import GATES, SIZES, VARIANTS, Bench, Counted, Kept, Size
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from siamese_diffusion.memory import Live
from siamese_diffusion.optimizer import state_bytes

GIB = 2**30
EARLY = 0.201
"""Share of the timesteps that are at most 200: of the samples that the augmentation counts after the gate."""


@dataclass(frozen=True)
class Change:
    name: str
    loss: Callable[[Bench, float], Tensor]
    kept: Kept = "none"
    release: bool = False  # gradients freed as soon as they are applied
    optimizer: str = "adamw"
    bf16: bool = False


CHANGES = (
    Change("straightforward", lambda bench, progress: bench.plain(progress)),
    Change("+ latents and text cached", lambda bench, progress: bench.plain(progress, cached=True)),
    Change("+ encoder once, decoder held constant", lambda bench, progress: bench.shared(progress)),
    Change("+ both hints in one pass", lambda bench, progress: bench.shared(progress, once=True)),
    Change("+ augmentation where t <= 200", lambda bench, progress: bench.ours(progress)),
    Change("+ activations kept: ours", lambda bench, progress: bench.ours(progress), kept="all"),
    Change("+ cheap activations recomputed", lambda bench, progress: bench.ours(progress), kept="costly"),
    Change(
        "+ gradients released: ours, lean", lambda bench, progress: bench.ours(progress), kept="costly", release=True
    ),
    Change("low memory", lambda bench, progress: bench.ours(progress), release=True, optimizer="adafactor", bf16=True),
)
"""Those with a + add a change to the one before; `low memory` is the preset sd15-low-memory."""


def count(size: Size) -> list[dict[str, Any]]:
    """TFLOP a sample and GiB of each variant, on tensors without data.

    After the gate a sample has t <= 200 in 201 of 1000 cases; the FLOPs are the mean over both cases, the memory the
    larger.
    """
    rows: list[dict[str, Any]] = []
    for number, change in enumerate(CHANGES):
        side = "plain" if number < 2 else "ours"  # whose forward passes are run
        for gate, progress in GATES.items():
            flops, peaks = [], []
            for early in (True, False):
                live = Counted()
                with FakeTensorMode(allow_non_fake_inputs=True), live:
                    bench = Bench(size, "ours" if number else "plain", fake=True)
                    bench.augmented_rows = [row for row in range(len(bench.timesteps)) if early]
                    bench.checkpointing(change.kept, side)
                    bench.model.single_pass = change.release
                    trained = [p for p in bench.model.parameters() if p.requires_grad]
                    if change.release:
                        for parameter in trained:
                            parameter.register_post_accumulate_grad_hook(_forget)
                    live.peak, live.flops = live.bytes, 0
                    with torch.autocast("cpu", torch.bfloat16, enabled=change.bf16):
                        loss = change.loss(bench, progress)
                    loss.backward()
                    peaks.append((live.peak + sum(state_bytes(p, change.optimizer) for p in trained)) / GIB)
                flops.append(live.flops / 1e12 / len(bench.timesteps))
            share = EARLY if progress > 1 / 3 else 0.0
            tflop = share * flops[0] + (1 - share) * flops[1]
            rows.append({"variant": change.name, "gate": gate, "tflop": tflop, "peak_gib": max(peaks)})
    first = {row["gate"]: row for row in rows[: len(GATES)]}
    for row in rows:
        row["flops_ratio"] = first[row["gate"]]["tflop"] / row["tflop"]
        row["memory_ratio"] = row["peak_gib"] / first[row["gate"]]["peak_gib"]
        print(
            f"{row['gate']:16} {row['variant']:38} {row['tflop']:8.4f} TFLOP a sample ({row['flops_ratio']:.2f} times "
            f"less)  {row['peak_gib']:6.2f} GiB ({row['memory_ratio']:.2f})",
            file=sys.stderr,
        )
    return rows


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def compare(size: Size, repeats: int) -> list[dict[str, Any]]:
    """Both sides in one process, in turn."""
    bench = Bench(size, "plain")
    rows = []
    for gate, progress in GATES.items():
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        losses = {name: bench.step(VARIANTS[name], progress) for name in VARIANTS}  # and a warm-up
        for name, loss in losses.items():
            assert abs(loss - losses["plain"]) <= 1e-5 * abs(losses["plain"]), (name, losses)
        for _ in range(repeats):
            for name in VARIANTS:
                start = time.perf_counter()
                bench.step(VARIANTS[name], progress)
                seconds[name].append(time.perf_counter() - start)
        for name in VARIANTS:
            step = partial(bench.step, VARIANTS[name], progress)
            ratios = [a / b for a, b in zip(seconds["plain"], seconds[name], strict=True)]
            rows.append(
                {
                    "gate": gate,
                    "variant": name,
                    "seconds": statistics.median(seconds[name]),
                    "faster": statistics.median(ratios),
                    "faster_range": [min(ratios), max(ratios)],
                    "tflop": _flops(step),
                    "peak_gib": _peak(bench, step),
                }
            )
    return rows


def _flops(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops()) / 1e12


def _peak(bench: Bench, call: Callable[[], Any]) -> float:
    """Live bytes at the worst moment of a step, weights and optimiser state included."""
    kept = sum(p.nbytes for p in bench.model.parameters())
    kept += sum(v.nbytes for entry in bench.optimizer.state.values() for v in entry.values() if isinstance(v, Tensor))
    for parameter in bench.model.parameters():
        parameter.grad = None
    with Live() as live:
        call()
    return float(kept + live.peak) / GIB


def one_side(size: Size, name: str) -> dict[str, Any]:
    """One side alone: seconds of a step, after one that makes the optimiser's state, and the resident peak.

    After the gate they are the mean over t: its step with t <= 200, in `EARLY` of all cases, and else that before the
    gate, from which it does not differ. The straightforward step takes as long for every t.
    """
    variant = VARIANTS[name]
    bench = Bench(size, variant.side)
    bench.step(variant, GATES["before the gate"])
    result: dict[str, Any] = {"variant": name}
    for gate, progress in GATES.items():
        start = time.perf_counter()
        loss = bench.step(variant, progress)
        result[gate] = {"seconds": time.perf_counter() - start, "loss": loss}
        print(f"{name}, {gate}: {result[gate]['seconds']:.1f} s", file=sys.stderr, flush=True)
    if variant.side == "ours":
        before, after = (result[gate]["seconds"] for gate in GATES)
        result["after the gate"]["seconds"] = EARLY * after + (1 - EARLY) * before
    result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return result


def main(name: str, repeats: int) -> list[dict[str, Any]]:
    """Run a size; print a table on standard error."""
    if name == "sd15":
        rows = []
        for variant in ("plain", "ours", "ours, lean"):
            command = [sys.executable, __file__, "--size", name, "--side", variant]
            rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
        for gate in GATES:
            for row in rows:
                first, second = rows[0][gate]["loss"], row[gate]["loss"]
                assert abs(first - second) <= 1e-5 * abs(first), (gate, first, second)
                faster = rows[0][gate]["seconds"] / row[gate]["seconds"]
                share = row["peak_gib"] / rows[0]["peak_gib"]
                print(f"{gate}, {row['variant']}: {faster:.2f} times as fast, peak {share:.2f}", file=sys.stderr)
        return rows
    rows = compare(SIZES[name], repeats)
    print(f"{'':16} {'':24} seconds  faster (range)        TFLOP  peak GiB", file=sys.stderr)
    for row in rows:
        low, high = row["faster_range"]
        print(
            f"{row['gate']:16} {row['variant']:24} {row['seconds']:7.3f}  {row['faster']:5.2f} ({low:.2f} to "
            f"{high:.2f})  {row['tflop']:7.4f} {row['peak_gib']:8.3f}",
            file=sys.stderr,
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", action="store_true", help="FLOPs and bytes, without running anything")
    parser.add_argument("--side", choices=VARIANTS, help="this side only (Stable Diffusion's size)")
    arguments = parser.parse_args()
    if arguments.count:
        print(json.dumps(count(SIZES[arguments.size])))
    elif arguments.side:
        print(json.dumps(one_side(SIZES[arguments.size], arguments.side)))
    else:
        print(json.dumps(main(arguments.size, arguments.repeats)))
