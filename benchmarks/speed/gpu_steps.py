"""Seconds and GiB of a training step on a GPU, as the original does it and as we do.

    python benchmarks/speed/gpu_steps.py --out FILE [--compile]

A step is `--batch` samples in passes of `micro`, then the optimiser, at Stable Diffusion 1.5's size with random
weights. A few passes are timed, over timesteps that are evenly spread, and taken `batch / micro` times; the optimiser
is timed alone. "fp32" is torch's default, in which the original trains: convolutions in TF32, matrix products not.
Memory is the allocator's peak. Results go to `--out` after each line. `--compile` measures `torch.compile` by blocks
alone, which takes minutes.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bench import GATES, SIZES, Bench, Kept, Size
from torch import Tensor

from siamese_diffusion.device import SIXTEEN_BITS, autocast
from siamese_diffusion.diffusion.compiling import compile_blocks

GIB = 2**30
ROWS = ("latents", "noise", "timesteps", "text", "mask", "image", "tokens")


@dataclass(frozen=True)
class Case:
    side: str  # "plain", as the original does it, or "ours"
    precision: str
    micro: int
    kept: Kept
    channels_last: bool = False
    passes: int = 2  # timed


def cases(batch: int) -> list[Case]:
    """In order of worth."""
    few = max(1, batch // 6)
    half = batch // 2
    return [
        Case("plain", "bf16", half, "none"),
        Case("ours", "bf16", half, "all"),
        Case("ours", "bf16", batch, "all", passes=1),
        Case("plain", "fp32", half, "none"),
        Case("ours", "fp32", half, "all"),
        Case("plain", "bf16", batch, "none", passes=1),
        Case("plain", "bf16", few, "none"),
        Case("ours", "bf16", few, "all"),
        Case("plain", "fp32", few, "none"),
        Case("ours", "fp32", few, "all"),
        Case("ours", "bf16", half, "costly"),
        Case("ours", "tf32", half, "all"),
        Case("ours", "bf16", batch, "all", channels_last=True, passes=1),
        Case("ours", "bf16", few, "all", channels_last=True),
        Case("ours", "bf16", 1, "all", channels_last=True, passes=3),
        Case("plain", "fp32", 1, "none", passes=3),  # minutes: each pass waits for Python
    ]


class Timed:
    """A batch on a device, of which any rows may pass."""

    def __init__(self, size: Size, batch: int, device: str) -> None:
        self.device, self.batch = torch.device(device), batch
        self.bench = Bench(Size(**{**asdict(size), "batch": batch}), "plain", device=device)
        self.whole = {name: getattr(self.bench, name) for name in ROWS}
        self.last = False

    def rows(self, rows: list[int]) -> None:
        for name, value in self.whole.items():
            setattr(self.bench, name, value[rows])
        self.bench.augmented_rows = [place for place, t in enumerate(self.bench.timesteps.tolist()) if t <= 200]

    def arrange(self, channels_last: bool) -> None:
        if channels_last != self.last:
            form = torch.channels_last if channels_last else torch.contiguous_format
            self.bench.model.to(memory_format=form)
            self.bench.optimizer.state.clear()
            self.last = channels_last

    def wait(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self, case: Case, progress: float) -> dict[str, Any]:
        """One line."""
        torch.set_float32_matmul_precision("highest" if case.precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = True
        self.arrange(case.channels_last)
        bench = self.bench
        bench.checkpointing(case.kept, case.side)
        bench.model.single_pass = False
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        total = case.micro * case.passes
        chosen = [(2 * i + 1) * self.batch // (2 * total) for i in range(total)]  # evenly spread over the timesteps
        parts = [chosen[first :: case.passes] for first in range(case.passes)]

        def one(rows: list[int]) -> Tensor:
            with autocast(self.device, case.precision if case.precision in SIXTEEN_BITS else "fp32"):
                loss: Tensor = getattr(bench, case.side)(progress)
            loss.backward()
            return loss.detach()

        def prepared(rows: list[int]) -> list[int]:
            self.rows(rows)
            return rows

        for part in parts:  # as many rows with t <= 200 as will be timed: their kernels are loaded at their first use
            one(prepared(part))
        bench.optimizer.step()
        bench.optimizer.zero_grad()
        passing, loss = 0.0, torch.zeros((), device=self.device)
        for part in parts:
            prepared(part)
            start = self.wait()
            loss += one(part) / len(parts)
            passing += self.wait() - start
        start = self.wait()
        bench.optimizer.step()
        bench.optimizer.zero_grad()
        optimizing = self.wait() - start
        return {
            "seconds": passing / len(parts) * self.batch / case.micro + optimizing,
            "optimizer": optimizing,
            "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else None,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB if cuda else None,
            "loss": float(loss),
        }


def try_case(timed: Timed, case: Case, gate: str) -> dict[str, Any]:
    try:
        found = timed.run(case, GATES[gate])
    except torch.cuda.OutOfMemoryError:
        timed.bench.optimizer.zero_grad()
        found = {"seconds": None}
    return {**asdict(case), "gate": gate, **found}


def main(size: str, batch: int, device: str, out: Path, compiled: bool) -> None:
    timed = Timed(SIZES[size], batch, device)
    if compiled:
        compile_blocks(timed.bench.model)
    listed = [Case("ours", "bf16", batch, "all", passes=1)] if compiled else cases(batch)
    rows: list[dict[str, Any]] = []
    for case in listed:
        for gate in GATES:
            start = time.perf_counter()
            row = try_case(timed, case, gate)
            row["whole_seconds"] = time.perf_counter() - start  # the warm-up among them, and what is compiled
            rows.append(row)
            out.write_text(json.dumps({"size": size, "batch": batch, "compiled": compiled, "rows": rows}, indent=1))
            shown = (
                "out of memory"
                if row["seconds"] is None
                else f"{row['seconds']:8.3f} s  {row['peak_gib'] or 0:6.1f} GiB"
            )
            name = (
                f"{row['side']} {row['precision']} micro {row['micro']} {row['kept']}{' nhwc' * row['channels_last']}"
            )
            print(f"{gate:16} {name:32} {shown}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    main(arguments.size, arguments.batch, arguments.device, arguments.out, arguments.compile)
