"""`faults.py disk`: what is written or read fails, or the device's memory ends; the command says so in one line with
exit status 2, and goes on to the same result once it can.

A full disk is a real one, where this process may mount one: a file system in memory with so many bytes left. That
reaches every library, whatever it writes with. Else, and in a third of the trials, a call of Python's fails.
"""

import contextlib
import ctypes
import errno
import functools
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign import forks, moments
from campaign.commands import Command
from campaign.kills import go_on, scratch_in, wrong_end
from campaign.stage import Stage, drawn, prepared
from campaign.telling import Report

SIZE = 1 << 30
"""Bytes that the file system may hold; what any command writes fits, and the 256 MB that `data get` leaves free."""

REMOUNT, DETACH = 32, 2
"""MS_REMOUNT of mount(2), MNT_DETACH of umount2(2)."""


@dataclass(frozen=True)
class Failure:
    """What fails: `full`, the disk when `at` of what the command writes is written; `write`, the call of that number
    that changes a file, with `error`; `read`, that opens one for reading; `memory`, that pass of a network."""

    kind: str
    at: float
    error: int = 0

    def __str__(self) -> str:
        if self.kind == "full":
            return f"the disk is full after {self.at:.1%}"
        return f"{self.kind} fails ({errno.errorcode.get(self.error, 'out of memory')}) at {self.at:.1%}"


KINDS = {"full": 5, "write": 3, "read": 2, "memory": 2}


def draw_failure(draw: random.Random, mounted: bool) -> Failure:
    """One of them; without a file system of its own, the disk is full where a call says so."""
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    at = draw.random()
    if kind == "full" and not mounted:
        kind = "write"
        return Failure(kind, at, errno.ENOSPC)
    errors = {"write": (errno.ENOSPC, errno.EIO, errno.EDQUOT), "read": (errno.EIO,)}
    return Failure(kind, at, draw.choice(errors[kind]) if kind in errors else 0)


def within(failure: Failure, stage: Stage, command: Command, call: Callable[[], None]) -> None:
    """In the fork: the call, in which it fails."""
    if failure.kind == "write":
        due = int(failure.at * stage.moments[command.name])
        moments.at_each(functools.partial(fail, failure.error, due), stage.place)
    elif failure.kind == "read":
        due = int(failure.at * stage.reads[command.name])
        moments.at_each(functools.partial(fail, failure.error, due), stage.place.parent, reading=True)
    elif failure.kind == "memory":
        end_memory(int(failure.at * PASSES))
    call()


PASSES = 12
"""Passes of a network's outermost part in which the memory may end."""


def fail(error: int, due: int, number: int, what: str, name: str) -> None:
    """Fail at the moment that is due; on a full disk, at all later ones that need room, too."""
    lasting = error in (errno.ENOSPC, errno.EDQUOT) and what in ("open", "opened", "mkdir")
    if number == due or (number > due and lasting):
        raise OSError(error, os.strerror(error), name)


def end_memory(due: int) -> None:
    """From now on the device's memory ends in a pass of a network."""
    import torch
    from torch.nn.modules import module as modules

    passes = 0

    def count(network: object, inputs: object) -> None:
        nonlocal passes
        passes += 1
        if passes > due * 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity")

    modules.register_module_forward_pre_hook(count)


@contextlib.contextmanager
def mounted(place: Path) -> Iterator[bool]:
    """Mount a file system of `SIZE` bytes; whether this process may."""
    done = resize(place, SIZE, 0)
    try:
        yield done
    finally:
        if done:
            ctypes.CDLL(None).umount2(os.fsencode(place), DETACH)


def resize(place: Path, size: int, how: int) -> bool:
    """Mount a file system of so many bytes, or (`REMOUNT`) let it hold so many from now on; whether that was done."""
    options = f"size={max(1, size >> 12) << 12}".encode()  # size=0 would mean without a limit
    return bool(ctypes.CDLL(None).mount(b"faults", os.fsencode(place), b"tmpfs", how, options) == 0)


def attempt(stage: Stage, command: Command, failure: Failure) -> tuple[list[str], bool]:
    """Let a command fail so, and go on; what is wrong with that, in words, and whether it failed at all."""
    stage.clear()
    if failure.kind == "full":
        resize(stage.place, int(failure.at * stage.most[command.name]), REMOUNT)
    call = functools.partial(within, failure, stage, command, stage.call(command))
    ended = forks.run(call, stage.place, stage.said)
    stage.transcript.append(f"# {failure}\n{ended.words}")
    told = wrong_end(ended, {0, 2})
    if left := forks.orphans():
        told.append(f"leaves {len(left)} processes behind")
    if failure.kind == "full":
        resize(stage.place, SIZE, REMOUNT)
    return told + go_on(stage, command), ended.status == 2


def run(seed: int, trials: range, kept: Path, commands: Sequence[Command]) -> int:
    """Do the trials, tell what was found, and return the exit status."""
    report = Report("disk", seed, kept)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=scratch_in()) as scratch:
        place = Path(scratch) / "place"
        place.mkdir()
        with mounted(place) as real, prepared(Path(scratch), commands) as stage:
            for trial in report.each(trials):
                draw = random.Random(f"{seed}-{trial}-disk")
                command = drawn(draw, commands)
                failure = draw_failure(draw, real)
                told, failed = attempt(stage, command, failure)
                counts[f"{failure.kind} {'failed' if failed else 'was no hindrance'}"] += 1
                report.note(trial, command.name, told, str(failure), stage.transcript)
    return report.end(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
