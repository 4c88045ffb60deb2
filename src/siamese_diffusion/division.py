"""How the samples of a step are divided: over processes, and into passes that fit the memory."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from siamese_diffusion import progress
from siamese_diffusion.config import LoopConfig
from siamese_diffusion.errors import InputError
from siamese_diffusion.memory import fitting
from siamese_diffusion.optimizer import state_bytes


class Step(NamedTuple):
    """A part of the work that one process does in one forward pass."""

    step: int
    rows: range


ENOUGH = 16
"""Samples of a pass that keep a GPU busy: below, what launches the kernels is slower than they are."""


class Division(NamedTuple):
    """How many samples pass at a time, None for all of a process's; and whether in a way that takes less memory."""

    micro_batch: int | None
    light: bool


def divide(batch_size: int, micro_batch: int | None, processes: int, rank: int) -> Callable[[int], list[Step]]:
    """The parts of a step that process `rank` does, in equal micro-batches; None: one, of all its samples.

    Raises:
        InputError: the batch cannot be divided so.
    """
    micro = micro_batch or batch_size // processes
    if micro == 0 or batch_size % (micro * processes):
        raise InputError(
            f"batch_size = {batch_size}: must be a multiple of {processes} processes x micro_batch {micro}"
        )
    blocks = range(rank * micro, batch_size, processes * micro)
    return lambda step: [Step(step, range(first, first + micro)) for first in blocks]


def fitting_division(
    wrapped: nn.Module,
    heaviest: Callable[[range], dict[str, Any]],
    settings: LoopConfig,
    accelerator: Accelerator,
    state: bool,
    lighten: Callable[[], None] | None = None,
) -> Division:
    """The largest division of this process's share of a batch that fits the memory of every process.

    Forward and backward passes are run to learn it; weights, buffers and gradients are as before when it returns, and
    the random state is not, which the loop sets anew in each step.

    Args:
        wrapped: the module as `accelerator` prepared it.
        heaviest: (rows) -> a batch that takes as much memory as any of that many samples.
        settings: of the loop.
        accelerator: the engine.
        state: whether the optimiser's state is in memory already.
        lighten: makes the module take less memory and more time, which pays where fewer than `ENOUGH` samples fit.

    Raises:
        InputError: the batch cannot be divided over the processes.
    """
    device = accelerator.device
    share = len(divide(settings.batch_size, None, accelerator.num_processes, 0)(0)[0].rows)
    parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    kept = [(buffer, buffer.clone()) for buffer in wrapped.buffers()]

    def run(count: int) -> None:
        try:
            with accelerator.no_sync(wrapped):  # processes try different numbers
                batch = to_device(heaviest(range(count)), device)
                accelerator.backward(wrapped(**batch).total)
        finally:
            for parameter in parameters:
                parameter.grad = None

    divisions = [count for count in range(1, share + 1) if share % count == 0]
    reserve = 0 if state else sum(state_bytes(parameter, settings.optimizer) for parameter in parameters)

    def micro_batch() -> int:
        found = torch.tensor([fitting(run, divisions, device, reserve)], device=device)
        return int(accelerator.gather(found).min())

    micro, light = micro_batch(), False
    if lighten is not None and micro < min(share, ENOUGH):
        lighten()
        micro, light = micro_batch(), True
    for buffer, value in kept:
        buffer.copy_(value)
    if accelerator.is_main_process:
        how = ", activations recomputed" if light else ""
        progress.notify(f"micro_batch auto: {micro} of {settings.batch_size} samples in one pass on {device}{how}")
    return Division(micro, light)


def earlier_division(state: Mapping[str, Any], batch_size: int, processes: int) -> Division | None:
    """What `micro_batch` auto was when a run began, from a checkpoint's state: rounding depends on it.

    None where nothing is noted, or where the batch can no longer be divided so.
    """
    micro = int(state.get("micro_batch") or 0)
    return Division(micro, bool(state.get("light"))) if micro and batch_size % (micro * processes) == 0 else None


def to_device(value: Any, device: torch.device) -> Any:
    """A batch with its tensors on `device`; from pinned memory the copies do not wait."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    return {key: to_device(entry, device) for key, entry in value.items()} if isinstance(value, dict) else value
