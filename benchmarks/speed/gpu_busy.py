"""The share of a training step in which a GPU works.

    python benchmarks/speed/gpu_busy.py --out FILE

The loop of `train` itself, with its batches made ahead, at Stable Diffusion 1.5's size (random weights, made-up latents
and masks) or at the size of the preset `medium`. torch's profiler tells when kernels and copies ran; the share is the
union of their times over the time of the steps. A fifth to a half of what is left is the profiler's own work.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import SIZES, Bench
from torch import nn
from torch.profiler import ProfilerActivity, profile

from siamese_diffusion.config import Config, load_config
from siamese_diffusion.diffusion.backbone import small_backbone
from siamese_diffusion.diffusion.checkpoint import assemble
from siamese_diffusion.diffusion.latents import LatentData
from siamese_diffusion.loop import run
from siamese_diffusion.prefetch import Batch

WARM, MEASURED = 3, 4
"""Steps before the profiler starts, and while it runs."""


class Done(Exception):  # noqa: N818
    """All is measured: the loop need not end, which would write a checkpoint."""


class Watched(nn.Module):
    """A model that starts and stops the profiler. Passes at progress 1 are the loop's search for the micro-batch."""

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.model, self.batch_size, self.calls, self.micro = model, batch_size, 0, 0
        cuda = torch.cuda.is_available()
        self.profiler = profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])
        self.seconds: list[float] = []

    def forward(self, **batch: Any) -> Any:
        if batch["progress"] < 1:
            self.micro = len(batch["latents"])
            step, place = divmod(self.calls, self.batch_size // self.micro)
            self.calls += 1
            if place == 0 and step in (1, WARM, WARM + MEASURED):
                self.mark(step)
        return self.model(**batch)

    def mark(self, step: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter())
        if step == WARM:
            self.profiler.start()
        if step == WARM + MEASURED:
            self.profiler.stop()
            raise Done


def busy(trace: Path) -> tuple[float, float]:
    """Seconds in which a kernel or a copy ran, and from the first one's start to the last one's end."""
    events = json.loads(trace.read_text())["traceEvents"]
    kinds = {"kernel", "gpu_memcpy", "gpu_memset"} if torch.cuda.is_available() else {"cpu_op"}
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in kinds)
    total, end = 0.0, spans[0][0]
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e6, (end - spans[0][0]) / 1e6


def latents(config: Config, shape: tuple[int, ...], text: torch.Tensor) -> LatentData:
    random = np.random.default_rng(0)
    side = config.data.resolution
    flips = {"none": 1, "horizontal": 2, "both": 4}[config.data.flip]
    return LatentData(
        moments=random.standard_normal((64, flips, 2, *shape), np.float32),
        embeddings=text,
        prompts=[0] * 64,
        images=random.integers(0, 256, (64, side, side, 3), np.uint8),
        masks=random.random((64, side, side)) > 0.7,
    )


def main(size: str, micro: int | None, device: str, out: Path) -> None:
    if size == "medium":
        config = load_config("medium")
        base = small_backbone(config.backbone, torch.rand(8, 3, 128, 128) * 2 - 1)
        model: Any = assemble(base, config)
        shape, text = base.encode(torch.zeros(1, 3, 128, 128))[0].shape[1:], base.embed(["A photo of polyp", ""])
    else:
        tiny = ["data.resolution=64", "train.batch_size=8"] if size == "tiny" else []
        config = load_config("sd15-paper", ["train.checkpointing=false", *tiny])
        bench = Bench(SIZES[size], "ours", device=device)
        model, shape = bench.model, bench.latents.shape[1:]
        text = bench.text[:1].cpu().repeat(2, 1, 1)
    steps = WARM + MEASURED + 1
    overrides = {"steps": steps, "log_every": 1000, "checkpoint_every": 1000, "sample_every": 1000}
    division = "auto" if micro is None else micro
    settings = config.train.model_copy(update={**overrides, "micro_batch": division})
    data = latents(config, tuple(shape), text)

    def batch_at(step: int, rows: range) -> Batch:
        batch = data.batch(step, rows, settings, config.data)
        batch["progress"] = 0.9
        batch["augmented_rows"] = [row for row, t in enumerate(batch["timesteps"].tolist()) if t <= 200]
        return batch

    def heaviest(rows: range) -> Batch:
        batch = batch_at(0, rows)
        every = list(range(len(rows)))
        return batch | {"timesteps": torch.zeros_like(batch["timesteps"]), "progress": 1.0, "augmented_rows": every}

    with tempfile.TemporaryDirectory() as folder:
        watched = Watched(model, settings.batch_size)
        with suppress(Done):
            run(watched, batch_at, settings, Path(folder) / "run", device=device, heaviest=heaviest)
        watched.profiler.export_chrome_trace(f"{folder}/trace.json")
        working, whole = busy(Path(folder) / "trace.json")
        found: dict[str, Any] = {
            "size": size,
            "batch": settings.batch_size,
            "micro_batch": watched.micro,
            "seconds_a_step": (watched.seconds[1] - watched.seconds[0]) / (WARM - 1),
            "seconds_a_step_profiled": (watched.seconds[2] - watched.seconds[1]) / MEASURED,
            "busy": working / whole,
            "precision": settings.precision,
        }
        if torch.cuda.is_available():
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            found["share_reserved"] = torch.cuda.max_memory_reserved() / torch.cuda.mem_get_info()[1]
    out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["tiny", "sd15", "medium"], default="sd15")
    parser.add_argument("--micro", type=int, help="samples of a pass; default: as many as fit")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.size, arguments.micro, arguments.device, arguments.out)
