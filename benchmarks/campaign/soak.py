"""`faults.py soak`: many pairs through `sample`, `evaluate`, `filter`, `segment` and `predict`; memory and open files
stay flat.

Each command runs twice, over a quarter of the pairs and over all of them, in a process of its own, and is looked at
from outside, twenty times a second: its memory that no other process shares, and how many files it has open. What the
three quarters cost is the difference of the two: libraries, networks and pictures are in both.

Design note: the bound. What a command must keep of a pair is its name, its row and its scores, a few KB. What a leak
would keep is an image and its activations, 3 KB and far more at this size, or a handle. `BYTES` lies between, and
`SLACK` is what an allocator moves about in any case, over however few pairs.
"""

import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from campaign import forks
from campaign.commands import SETTINGS, Sources
from campaign.kills import scratch_in

RESOLUTION = 64
BYTES = 8 << 10
"""Memory that a pair may cost for good."""
SLACK = 48 << 20
HANDLES = 4
"""Open files that more pairs may cost."""
PAUSE = 0.05


class Look(NamedTuple):
    """What a process has at a moment: bytes of its own, and files that were open at the look before, too."""

    memory: int
    handles: int


def look(process: int, before: frozenset[str]) -> tuple[Look, frozenset[str]] | None:
    """None where it has ended; besides what is open now, for the next look, which is given it as `before`.

    Threads that read side by side have as many files open for a moment, and a look catches more of them or fewer.
    """
    try:
        shared = {}
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, value = line.partition(":")
            shared[name] = int(value.split()[0]) << 10
        own = shared["Private_Dirty"] + shared["Private_Clean"] + shared["Swap"]
        links = list(Path(f"/proc/{process}/fd").iterdir())
        now = frozenset(f"{link.name} {link.readlink()}" for link in links)
        return Look(own, len(now & before)), now
    except (OSError, KeyError, IndexError):
        return None


def commands(sources: Path, count: int) -> dict[str, list[str]]:
    """The commands, one after another over the same pairs, as they are typed; phantoms are made to test on."""
    apart = ["--config", f"{sources}/soak.yaml", "--device", "cpu"]
    copies = ["--per-mask", str(-(-count // 6))]
    drawing = ["sample", "--checkpoint", f"{sources}/run", "--masks", f"{sources}/pairs", *copies, *apart]
    return {
        "sample": drawing,
        "more": ["phantoms", "--count", str(count), "--resolution", "32", "--seed", "1"],
        "evaluate": ["evaluate", "--real", f"{sources}/pairs", "--synthetic", "sample", *apart],
        "filter": ["filter", "--scores", "evaluate", "--max-boundary", "1", "--anyway"],
        "segment": [
            *("segment", "--train", f"{sources}/pairs", "--synthetic", "sample", "--arms", "mixed", "--test", "more"),
            *apart,
        ],
        "predict": ["predict", "--network", f"{sources}/network", "--images", "filter", "--device", "cpu"],
    }


def judge(name: str, few: list[Look], many: list[Look], more: int) -> list[str]:
    """What is wrong with what `more` pairs cost, in words, from looks at a run over few pairs and one over many."""
    memory = [max(look.memory for look in looks) for looks in (few, many)]
    handles = [max(look.handles for look in looks) for looks in (few, many)]
    grown, opened = memory[1] - memory[0], handles[1] - handles[0]
    print(
        f"{name:10}{memory[0] / 2**20:5.0f} and {memory[1] / 2**20:5.0f} MB at most, {grown / more / 1024:+.2f} KB a "
        f"pair; {handles[0]} and {handles[1]} files open at most",
        flush=True,
    )
    told = []
    if grown > max(SLACK, BYTES * more):
        told.append(f"{name}: memory grows by {grown / more / 1024:.1f} KB a pair")
    if opened > HANDLES:
        told.append(f"{name}: has {opened} more files open over more pairs")
    return told


def observe(call: Callable[[], object], folder: Path, said: Path) -> tuple[forks.Ended, list[Look]]:
    """Do a call in a fork; how it ended, and what it had."""
    looks: list[Look] = []
    opened = frozenset[str]()
    begun = time.monotonic()
    process = forks.start(call, folder, said)
    while not (done := os.waitpid(process, os.WNOHANG))[0]:
        if (found := look(process, opened)) is not None:
            one, opened = found
            looks.append(one)
        time.sleep(PAUSE)
    status = os.waitstatus_to_exitcode(done[1])
    return forks.Ended(status, said.read_text(errors="replace"), time.monotonic() - begun), looks


def run(count: int) -> int:
    """Send a quarter of so many pairs through, then all of them; the exit status."""
    forks.warm()
    few = max(6, count // 4)
    looks = [_send(pairs) for pairs in (few, count)]
    told = [line for name in looks[0] for line in judge(name, looks[0][name], looks[1][name], count - few)]
    print("\n".join(told) or f"flat from {few} to {count} pairs")
    return 1 if told else 0


def _send(count: int) -> dict[str, list[Look]]:
    """Send so many pairs through; looks at each command."""
    found = {}
    with tempfile.TemporaryDirectory(dir=scratch_in()) as scratch:
        place, said = Path(scratch), Path(scratch) / "said"

        def call(line: list[str]) -> None:
            forks.do(functools.partial(forks.command_line, line), place, said)

        sources = Sources(place / "sources", call, lambda made: forks.do(made, place, said))
        sources.need("{sources}/run {sources}/network")
        _settings(sources.folder / "soak.yaml", count)
        for name, line in commands(sources.folder, count).items():
            ended, found[name] = observe(functools.partial(forks.command_line, [*line, "--out", name]), place, said)
            if ended.status or not found[name]:
                raise AssertionError(f"{name} ends with {ended.status}:\n{ended.words}")
    return found


def _settings(path: Path, count: int) -> None:
    """Of the smallest networks; `segment` sees each pair once."""
    steps = {"steps": max(10, count // 8), "batch_size": 8, "sample_every": 1 << 20, "checkpoint_every": 1 << 20}
    values: dict[str, Any] = {
        **SETTINGS,
        "sample": {"steps": 1, "batch_size": 16, "mask_guidance": 1.0},
        "segment": {**SETTINGS["segment"], **steps, "network": "unet_plain"},
    }
    path.write_text(yaml.safe_dump(values))
