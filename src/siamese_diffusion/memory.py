"""Bytes that tensors take and bytes that are free: how many images are drawn together where that is left to the machine."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

SHARE = 0.5
"""Of the free memory; the rest is for what is not counted: fragments, workspaces of convolutions, other programs."""

LARGEST = 64
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


def fitting_batch(run: Callable[[int], object], free: int) -> int:
    """How many samples fit into `SHARE` of `free` bytes: a power of two, at least 1 and at most `LARGEST`.

    Args:
        run: does the work on so many samples; called with 1 and 2, whose difference leaves out what all samples share.
        free: see `free_bytes`.
    """
    peaks = []
    for count in (1, 2):
        with Live() as live:
            run(count)
        peaks.append(live.peak)
    each = max(1, peaks[1] - peaks[0])
    fitting = min(LARGEST, max(1, int(SHARE * free) // each))
    size: int = 1 << (fitting.bit_length() - 1)
    return size


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on `device`; processes that share the main memory share it equally."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # where the system does not say what is free
    listed = Path("/proc/meminfo")
    if listed.exists():
        entries = dict(line.split(":") for line in listed.read_text().splitlines())
        free = 1024 * int(entries["MemAvailable"].split()[0])
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip().isdigit():  # a container's own bound
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
