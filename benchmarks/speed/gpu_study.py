"""Siamese-Diffusion against mask-only in the minutes of one GPU: the preset `medium`, as many steps as fit the time.

    python benchmarks/speed/gpu_study.py backbone --data KVASIR --out DIR --seconds 150
    python benchmarks/speed/gpu_study.py arm siamese --data KVASIR --out DIR --seconds 90

The first trains the backbone on the split `train`; the second one diffusion on 100 pairs of it, and draws 400 new pairs
into `DIR/siamese-pairs` (tar files). Two arms may run side by side. How many steps fit is measured on the first 40, and
said.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from siamese_diffusion.config import Config, load_config, update
from siamese_diffusion.diffusion import pretrain as pretraining
from siamese_diffusion.diffusion import train as training
from siamese_diffusion.diffusion.sample import sample

WARM, TIMED = 10, 40


class Done(Exception):  # noqa: N818
    """Enough steps were timed."""


@contextmanager
def stopped(module: Any, times: list[float]) -> Iterator[None]:
    """Let the loop that `module` calls end after `TIMED` steps, and note when each began."""
    whole = module.run

    def run(model: Any, *arguments: Any, **options: Any) -> None:
        def begin(*_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            if len(times) == TIMED:
                raise Done

        hook = model.register_forward_pre_hook(begin)
        try:
            whole(model, *arguments, **options)
        finally:
            hook.remove()

    module.run = run
    try:
        with suppress(Done):
            yield
    finally:
        module.run = whole


def fitting_steps(module: Any, call: Callable[[], Any], seconds: float) -> tuple[int, float]:
    """How many steps fit, and the seconds that one takes."""
    times: list[float] = []
    with stopped(module, times):
        call()
    each = (times[-1] - times[WARM]) / (len(times) - 1 - WARM)
    return max(20, int(0.95 * seconds / each)), each


def with_steps(config: Config, section: str, steps: int) -> Config:
    return update(config, section, steps=steps, sample_every=steps, checkpoint_every=steps, warmup=steps // 20)


def backbone(data: Path, out: Path, config: Config, seconds: float, device: str) -> dict[str, Any]:
    start = time.perf_counter()
    longest = with_steps(config, "pretrain", 10**5)
    steps, each = fitting_steps(
        pretraining, lambda: pretraining.pretrain(data, out / "backbone", longest, device=device), seconds
    )
    begun = time.perf_counter()
    made = pretraining.pretrain(data, out / "backbone", with_steps(config, "pretrain", steps), True, device)
    ended = time.perf_counter()
    return {**made, "seconds_a_step": each, "seconds": ended - begun, "seconds_before": begun - start}


def arm(data: Path, out: Path, config: Config, method: str, seconds: float, device: str, copies: int) -> dict[str, Any]:
    start = time.perf_counter()
    config = update(update(config, "data", limit=100), "sample", shard_size=200)
    longest = with_steps(config, "train", 10**5)
    pairs = str(out / "backbone")
    run = out / method
    steps, each = fitting_steps(
        training, lambda: training.train(data, run, pairs, method, longest, device=device), seconds
    )
    begun = time.perf_counter()
    made = training.train(data, run, pairs, method, with_steps(config, "train", steps), True, device)
    ended = time.perf_counter()
    drawn = sample(
        run,
        data,
        out / f"{method}-pairs",
        copies,
        "flip-scale-shift",
        device=device,
        config=config,
        format="webdataset",
    )
    return {
        **made,
        **drawn,
        "seconds_a_step": each,
        "seconds": ended - begun,
        "seconds_before": begun - start,
        "sampling_seconds": time.perf_counter() - ended,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["backbone", "arm"])
    parser.add_argument("method", nargs="?", choices=["siamese", "mask-only", "adc"], default="siamese")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--copies", type=int, default=4, help="images for each of the 100 masks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--config", default="medium")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    settings = load_config(arguments.config, arguments.set)
    if arguments.what == "backbone":
        result = backbone(arguments.data, arguments.out, settings, arguments.seconds, arguments.device)
        name = "backbone"
    else:
        name = arguments.method
        result = arm(
            arguments.data, arguments.out, settings, name, arguments.seconds, arguments.device, arguments.copies
        )
    (arguments.out / f"{name}.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result), file=sys.stderr)
