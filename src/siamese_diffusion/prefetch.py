"""What a device works on, made ahead: the batches of a training loop by processes of their own, other parts by a
thread.

Design note: a batch is a pure function of (step, rows), so whoever makes it makes the same.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from siamese_diffusion.division import Step
from siamese_diffusion.interrupt import STOPS

Batch = dict[str, Any]
"""Keyword arguments of the module's `forward`."""

BatchAt = Callable[[int, range], Batch]
"""(step, rows) -> these rows of the global batch of that step; the same for the same arguments, in any process."""


A = TypeVar("A")
T = TypeVar("T")


def one_ahead(make: Callable[[A], T], items: Iterable[A]) -> Generator[T, None, None]:
    """Yield `make(item)` of each item, in order; a thread makes the next one while the caller works with the last."""
    with ThreadPoolExecutor(1) as thread:
        last: Future[T] | None = None
        for item in items:
            made = thread.submit(make, item)
            if last is not None:
                yield last.result()
            last = made
        if last is not None:
            yield last.result()


class _Batches(Dataset[Batch]):
    def __init__(self, batch_at: BatchAt, parts: Sequence[Step]) -> None:
        self.batch_at, self.parts = batch_at, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Batch:
        return self.batch_at(*self.parts[index])


def prefetch(
    batch_at: BatchAt, parts: Sequence[Step], workers: int | Literal["auto"], device: torch.device
) -> Generator[Batch, None, None]:
    """Yield the batch of each part, on the CPU, in pinned memory where that spares a GPU's waiting.

    Args:
        batch_at: makes them.
        parts: in the order in which they are wanted.
        workers: processes that make them; 0: this one, when they are asked for; "auto": up to 4 beside a GPU, else 0.
        device: where they will go.

    The processes end when the generator is closed.
    """
    cuda = device.type == "cuda"
    count = _workers(cuda) if workers == "auto" else workers
    yield from DataLoader(
        _Batches(batch_at, parts),
        batch_size=None,
        num_workers=count,
        pin_memory=cuda,
        worker_init_fn=_outlive_signals if count else None,
    )


def _workers(cuda: bool) -> int:
    # Forked, since a batch is made by a closure; where processes are begun anew it could not be sent to them.
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if not cuda or method != "fork":
        return 0
    return min(4, (os.cpu_count() or 1) // (2 * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _outlive_signals(_: int) -> None:
    """Whoever stops the program stops its whole group; these end with the main process, which first finishes its
    step."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
