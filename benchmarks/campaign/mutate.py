"""`faults.py mutate`: damaged input of every kind that is read.

Trials run in processes of their own, so that one that hangs or crashes is a finding and not the end.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from campaign import archives_in, notes_in, pairs_in, results_in, settings_in, weights_in
from campaign.entrance import Entrance
from campaign.trials import Finding, attempt, damage, entrance_of, keep, silence

ENTRANCES = [
    entrance
    for module in (pairs_in, settings_in, results_in, archives_in, weights_in, notes_in)
    for entrance in module.ENTRANCES
]

PATIENCE = 60.0
"""Seconds after which a trial is taken to hang."""


class Campaign(NamedTuple):
    """What all trials share."""

    seed: int
    entrances: Sequence[Entrance]
    good: Path
    """Holds the undamaged folder of each entrance, by its place in the list."""
    kept: Path

    def folder(self, entrance: Entrance) -> Path:
        return self.good / str(self.entrances.index(entrance))


def run(seed: int, trials: range, workers: int, kept: Path, entrances: Sequence[Entrance] = ENTRANCES) -> int:
    """Run the trials, tell what was found, and return the exit status."""
    begun = time.monotonic()
    torch.set_num_threads(1)  # a fork has none of the threads that torch began before it, and waits for them for good
    with tempfile.TemporaryDirectory() as scratch:
        campaign = Campaign(seed, entrances, Path(scratch), kept.absolute())
        stand_in_for_bsdtar(campaign.good / "bin")
        for entrance in entrances:
            prepare(entrance, campaign.folder(entrance))
        findings, verdicts = supervise(campaign, trials, workers)
    for name, counts in sorted(verdicts.items()):
        print(f"{name:24}{', '.join(f'{verdict} {counts[verdict]}' for verdict in sorted(counts))}")
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        grouped.setdefault((finding.entrance, finding.what), []).append(finding)
    for (name, what), same in sorted(grouped.items()):
        print(f"\n{len(same)} x {name}: {what}\n    trial {same[0].trial}, {same[0].kept}")
    total = sum(counts.total() for counts in verdicts.values())
    print(f"\nseed {seed}: {total} trials in {time.monotonic() - begun:.0f} s, {len(findings)} findings")
    return 1 if findings else 0


def prepare(entrance: Entrance, folder: Path) -> None:
    """Make what an entrance reads, and see that it is read: else the campaign would prove nothing."""
    with silence(), tempfile.TemporaryDirectory() as scratch:
        entrance.make(folder)
        shutil.copytree(folder, Path(scratch) / "folder")
        for path in (path for pattern in entrance.damaged for path in (Path(scratch) / "folder").glob(pattern)):
            if path.is_file():
                value = entrance.read(Path(scratch) / "folder", path)
                if not entrance.right(value):
                    raise AssertionError(f"{entrance.name}: {path.name} is good and not read right")
                break


def stand_in_for_bsdtar(folder: Path) -> None:
    """A program of that name that hands a tar archive on as it is, damage included, instead of repairing it."""
    folder.mkdir()
    program = folder / "bsdtar"
    program.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo bsdtar; else exec cat "${5#@}"; fi\n')
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


class Worker:
    """A process that does its trials one after another, and tells of each when it has ended."""

    def __init__(self, campaign: Campaign, trials: list[int]) -> None:
        context = multiprocessing.get_context("fork")  # what is imported and made is there
        self.left = trials
        self.since = time.monotonic()
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process: Any = context.Process(target=work, args=(campaign, trials, theirs))
        self.process.start()
        theirs.close()


def supervise(campaign: Campaign, trials: range, workers: int) -> tuple[list[Finding], dict[str, Counter[str]]]:
    """Keep so many processes at work until all trials are done."""
    findings: list[Finding] = []
    verdicts: dict[str, Counter[str]] = {}

    def conclude(trial: int, verdict: str, finding: Finding | None) -> None:
        verdicts.setdefault(entrance_of(campaign.seed, trial, campaign.entrances).name, Counter())[verdict] += 1
        if finding is not None:
            findings.append(finding)
            print(f"trial {finding.trial}, {finding.entrance}: {finding.what}", file=sys.stderr, flush=True)

    shares = [list(trials[number::workers]) for number in range(workers)]
    running = [Worker(campaign, share) for share in shares if share]
    while running:
        ready = wait([worker.pipe for worker in running], timeout=1.0)
        for worker in list(running):
            if worker.pipe in ready:
                try:
                    conclude(*worker.pipe.recv())
                    worker.left, worker.since = worker.left[1:], time.monotonic()
                except EOFError:
                    running.remove(worker)
                    worker.process.join()
                    if worker.left:  # it died of a trial
                        conclude(worker.left[0], "failed", lost(campaign, worker.left[0], worker.process.exitcode))
                        running += [Worker(campaign, worker.left[1:])] if worker.left[1:] else []
            elif time.monotonic() - worker.since > PATIENCE:
                worker.process.kill()  # which ends its pipe
    return findings, verdicts


def lost(campaign: Campaign, trial: int, status: int) -> Finding:
    """A trial that took its process with it."""
    entrance = entrance_of(campaign.seed, trial, campaign.entrances)
    with tempfile.TemporaryDirectory() as scratch:
        path = damage(campaign.seed, trial, entrance, campaign.folder(entrance), Path(scratch) / "folder")
        what = "hangs" if status == -signal.SIGKILL else f"ends the process with status {status}"
        return Finding(trial, entrance.name, what, keep(path, campaign.kept, campaign.seed, trial))


def work(campaign: Campaign, trials: list[int], pipe: Connection) -> None:
    """Do trials."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        folder = Path(scratch) / "folder"
        for trial in trials:
            entrance = entrance_of(campaign.seed, trial, campaign.entrances)
            path = damage(campaign.seed, trial, entrance, campaign.folder(entrance), folder)
            content = path.read_bytes()
            verdict, wrong = attempt(entrance, folder, path)
            if Path("CANARY").exists() or (folder / "CANARY").exists():
                verdict, wrong = "failed", "a program in the file was run"
                Path("CANARY").unlink(missing_ok=True)
            finding = None
            if wrong is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)  # the reader may have changed it
                finding = Finding(trial, entrance.name, wrong, keep(path, campaign.kept, campaign.seed, trial))
            pipe.send((trial, verdict, finding))
        os.chdir("/")
    pipe.close()
