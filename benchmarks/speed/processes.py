"""Two processes against one on one machine.

    python benchmarks/speed/processes.py [--size tiny|small] [--repeats 3]

`train` and `sample` run as their commands do, over gloo, at one global batch, in turn: one process of one thread, one
of two threads, and two of one thread each. Seconds are of a training step and of an image, without start-up. Efficiency
is how many times as fast two processes are, over 2 against one thread, over 1 against two threads.

Two processes of one machine share its memory bus and caches, and gloo copies through the main memory: the figure says
what the code loses, not what a network of GPUs would.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from siamese_diffusion.config import Config, build_config, dump_config

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "data": {"resolution": 32},
        "backbone": {"channels": [16, 32], "attention": [False, True], "hint_channels": [4, 8], "text_dim": 8},
    },
    "small": {"data": {"resolution": 96}},
}
SETUPS = {"one process, 1 thread": (1, 1), "one process, 2 threads": (1, 2), "two processes, 1 thread each": (2, 1)}
"""Name: processes, threads of each."""
PAIRS, BATCH = 64, 8


def main(size: str, steps: int, repeats: int) -> list[dict[str, Any]]:
    """Print a table on standard error."""
    from siamese_diffusion.data.phantom import make_phantoms
    from siamese_diffusion.diffusion.pretrain import pretrain

    seconds: dict[tuple[str, str], list[float]] = {(task, name): [] for task in ("train", "sample") for name in SETUPS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = settings(size, steps)
        (folder / "config.yaml").write_text(dump_config(config))
        make_phantoms(folder / "pairs", PAIRS, config.data.resolution)
        pretrain(folder / "pairs", folder / "backbone", config, device="cpu")
        for repeat in range(repeats):
            for name in SETUPS:
                for task in ("train", "sample"):
                    spent = timed(task, folder, f"{task}-{repeat}-{name.replace(' ', '-')}", *SETUPS[name])
                    seconds[task, name].append(spent)
                    print(f"{repeat} {task}, {name}: {spent:.3f} s", file=sys.stderr)
    rows = []
    print(f"\n{'':38}seconds   two processes are faster (range)  efficiency (range)", file=sys.stderr)
    for (task, name), taken in seconds.items():
        processes, threads = SETUPS[name]
        ratios = [a / b for a, b in zip(taken, seconds[task, "two processes, 1 thread each"], strict=True)]
        share = threads / 2 if processes == 1 else 1.0
        row = {
            "task": task,
            "setup": name,
            "size": size,
            "batch": BATCH,
            "seconds": statistics.median(taken),
            "seconds_range": [min(taken), max(taken)],
            "two_faster": statistics.median(ratios),
            "two_faster_range": [min(ratios), max(ratios)],
            "efficiency": statistics.median(ratios) * share,
        }
        rows.append(row)
        line = f"{task + ', ' + name:38}{row['seconds']:7.3f}"
        if processes == 1:
            line += f"   {row['two_faster']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            line += f"   {row['efficiency']:.2f} ({share * min(ratios):.2f} to {share * max(ratios):.2f})"
        print(line, file=sys.stderr)
    return rows


def settings(size: str, steps: int) -> Config:
    """A short run that logs every step and stops for nothing else."""
    loop = {"steps": steps, "log_every": 1, "sample_every": 10_000, "checkpoint_every": 10_000, "warmup": 0}
    values = {
        **SIZES[size],
        "pretrain": {**loop, "steps": 2},
        "train": {**loop, "batch_size": BATCH},
        "sample": {"scheduler": "dpm", "steps": 8, "batch_size": BATCH},
    }
    return build_config(values, "processes")


def timed(task: str, folder: Path, name: str, processes: int, threads: int) -> float:
    """Seconds of a training step, or of an image, as the command of that name takes them."""
    # --cpu would start one process, whatever --num_processes says
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launch += [
        "--dynamo_backend",
        "no",
        "--num_processes",
        str(processes),
        "--num_cpu_threads_per_process",
        str(threads),
    ]
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "siamese_diffusion", task]
    config, out = folder / "config.yaml", folder / name
    if task == "train":
        command += ["--data", str(folder / "pairs"), "--backbone", str(folder / "backbone")]
    else:
        command += ["--checkpoint", str(next(folder.glob("train-*"))), "--masks", str(folder / "pairs")]
    command += ["--config", str(config), "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return step_seconds(out) if task == "train" else image_seconds(out, processes)


def step_seconds(run: Path) -> float:
    """Mean over the steps after the second, by the clock of the log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload().Scalars("total")
    return float(events[-1].wall_time - events[1].wall_time) / (len(events) - 2)


def image_seconds(made: Path, processes: int) -> float:
    """Over the batches after the first of each process, by the clock of the files."""
    written = [path.stat().st_mtime for path in sorted((made / "images").iterdir())]
    ends = [max(written[i : i + BATCH]) for i in range(0, len(written), BATCH)]
    rate = 0.0
    for process in range(processes):
        own = ends[process::processes]
        rate += BATCH * (len(own) - 1) / (own[-1] - own[0])
    return 1 / rate


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--repeats", type=int, default=3)
    print(json.dumps(main(**vars(parser.parse_args()))))
