"""Bytes that tensors take and bytes that are free: how many samples are taken together where that is left to the
machine."""

import gc
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

SHARE = {"cuda": 0.9}
"""Of the free memory that is filled; elsewhere half. The rest is for what is not counted: on a processor the workspaces
of convolutions and other programs, on a GPU little."""

MOST_TOGETHER = 64
"""More images together fill no device better, and a killed run loses more of them."""


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that are made in its context and alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self.seen: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(Tensor, self.count, func(*args, **(kwargs or {})))

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            size = storage.nbytes()
            self.seen[storage] = size
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self.release, size)
        return tensor

    def release(self, size: int) -> None:
        self.bytes -= size


def fitting(run: Callable[[int], object], counts: Sequence[int], device: torch.device, reserve: int = 0) -> int:
    """The largest of `counts` samples whose work fits the free memory of `device`; the smallest where none does.

    What a sample takes is the difference between the peaks of two samples and one, which leaves out what all share. On
    a GPU, where the peaks are the allocator's, the largest that should fit is then tried, and smaller ones until one
    does.

    Args:
        run: does the work on so many samples, and frees what it took.
        counts: to choose from; ascending.
        device: where `run` works.
        reserve: bytes that will be needed besides.
    """
    budget = int(SHARE.get(device.type, 0.5) * free_bytes(device)) - reserve
    one, two = (_peak(run, count, device) for count in (1, 2))
    each = max(1, two - one)
    shared = max(0, one - each)
    fit = [count for count in counts if shared + count * each <= budget] or list(counts[:1])
    while device.type == "cuda" and len(fit) > 1 and _peak(run, fit[-1], device) > budget:
        fit.pop()
    return fit[-1]


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4 ... up to `largest`."""
    return [1 << exponent for exponent in range(largest.bit_length())]


def _peak(run: Callable[[int], object], count: int, device: torch.device) -> int:
    """Bytes that the work on `count` samples takes at its worst moment, over what was taken before it."""
    if device.type != "cuda":
        with Live() as live:
            run(count)
        return int(live.peak)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with suppress(torch.cuda.OutOfMemoryError):
        run(count)
        # What the allocator holds, not what is in use: fragments are lost as well.
        return int(torch.cuda.max_memory_reserved(device)) - before
    return sys.maxsize


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on `device`; processes that share the main memory share it equally."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        taken = torch.cuda.memory_allocated(device)
        fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)  # since torch 2.7
        bound = int(fraction(device) * total)
        return int(min(free + torch.cuda.memory_reserved(device), bound) - taken)
    free = int(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip().isdigit():  # a container's own bound
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
