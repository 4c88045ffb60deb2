"""How fast a training loop goes, and for how much of its time the device waits for batches.

Design note: a GPU works behind the program that tells it what to do, so that what the program waits for is not what the
GPU waits for. Two marks in the GPU's own queue tell: one behind all it has been given, one when the next batch is
there. Time passes between them only where it had nothing left to do. They are read where the log is written, which
waits for the device anyway. Elsewhere the program's own waiting is the device's.
"""

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

from siamese_diffusion import progress

T = TypeVar("T")

TOO_LONG = 0.05
"""Share of the time that a GPU waits for its batches above which the user is told."""


class Speed:
    """A clock of the steps between two lines of the log.

    Args:
        device: where the steps run.
        batch_size: samples of a step, over all processes.
        workers: the setting, for what the user is told.
    """

    def __init__(self, device: torch.device, batch_size: int, workers: int | str) -> None:
        self.device, self.batch_size, self.workers = device, batch_size, workers
        self.seconds = self.waited = 0.0
        self.marks: list[tuple[Any, Any]] = []
        self.begun: float | None = None
        self.steps = self.lines = 0

    def next(self, batches: Iterator[T]) -> T:
        """The next batch; how long the device waits for it is noted."""
        if self.begun is None:
            self.begun = time.perf_counter()
        if self.device.type == "cuda":
            free = _mark(self.device)
            batch = next(batches)
            self.marks.append((free, _mark(self.device)))
            return batch
        start = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - start
        return batch

    def stop(self) -> None:
        """Leave out what follows, up to the next batch; the device has done all that it was given."""
        if self.begun is not None:
            self.seconds += time.perf_counter() - self.begun
            self.begun = None

    def end_step(self) -> None:
        self.steps += 1

    def figures(self) -> dict[str, float]:
        """Of the steps since the last call, one at least, after `stop`; the next call is of those after it.

        Returns:
            `seconds_a_step`, `samples_a_second`, `waiting` (share of the time, 0 to 1) and, of a GPU, `peak_gib`: the
            most memory that tensors have taken there since the program began.
        """
        waited = self.waited + sum(free.elapsed_time(ready) for free, ready in self.marks) / 1000
        found = {
            "seconds_a_step": self.seconds / self.steps,
            "samples_a_second": self.steps * self.batch_size / max(self.seconds, 1e-9),
            "waiting": min(1.0, waited / max(self.seconds, 1e-9)),
        }
        if self.device.type == "cuda":
            found["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
            self._tell(found["waiting"])
        self.marks, self.seconds, self.waited, self.steps = [], 0.0, 0.0, 0
        self.lines += 1
        return found

    def _tell(self, waiting: float) -> None:
        """Once, and not of the first line: processes that make batches begin with it."""
        if self.lines == 1 and waiting > TOO_LONG:
            progress.notify(
                f"the device waits {100 * waiting:.0f} % of the time for batches; more processes may make them ahead "
                f"(workers, now {self.workers})"
            )


def _mark(device: torch.device) -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
