"""Do the stages of a plan, one after another or several side by side; stop and go on at any moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.data.decided import write_decided
from siamese_diffusion.data.layouts.manifest import row_of
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_jsonl
from siamese_diffusion.progress import notify
from siamese_diffusion.studies import worker_process
from siamese_diffusion.studies.lock import StageLock
from siamese_diffusion.studies.perform import finish, perform, prepare
from siamese_diffusion.studies.plan import Plan
from siamese_diffusion.studies.stages import COMMANDS, Stage
from siamese_diffusion.studies.worker_process import INTERRUPTED, PATIENCE


@dataclass
class Work:
    """A stage that a process of its own is doing."""

    stage: Stage
    lock: StageLock
    process: "subprocess.Popen[bytes]"
    begun: float = field(default_factory=time.monotonic)


def run_stages(plan: Plan, device: str, finished: Callable[[Stage], None]) -> dict[str, str]:
    """Do what is left to do.

    Args:
        plan: of which `study.file.workers` says how many stages run side by side; with 1, they run in this process.
        device: "auto", "cpu", "cuda" ...
        finished: called after each stage that ends well, also one that another process did.

    Returns:
        What went wrong, by the stage's key; stages that need such a one are left out.

    Raises:
        KeyboardInterrupt: interrupted; every stage at work has saved its state.
    """
    for folder, pairs in plan.manifests.items():
        write_decided(folder, pairs[0].mask.decoding.decided)
        write_jsonl(folder / "pairs.jsonl", map(row_of, pairs))
    workers = plan.study.file.workers
    failed: dict[str, str] = {}
    total = 0
    told = False
    with _pool() as running:
        while True:
            for stage in _ended(running, failed):
                finished(stage)
            wanted = [stage for stage in plan.wanted() if not _blocked(stage, failed)]
            if not wanted:
                return failed
            total = max(total, len(wanted))
            busy = {work.stage.key for work in running}
            ready = [stage for stage in wanted if stage.key not in busy and all(need.done for need in stage.needs)]
            locked = _lock_one(ready) if len(running) < workers else None
            if locked is None:
                if ready and not running and not told:
                    notify(f"another process is at work on: {ready[0].label}; waiting for it")
                    told = True
                time.sleep(0.2 if running else 1.0)
                continue
            told = False
            stage, lock = locked
            if stage.done:  # by another process, since we looked
                lock.release()
                finished(stage)
                continue
            notify(f"[{total - len(wanted) + len(busy) + 1}/{total}] {stage.label}")
            if workers > 1 and stage.kind in COMMANDS:
                running.append(_start(stage, lock, device, workers))
            elif _perform(stage, lock, device, failed):
                finished(stage)


def threads(workers: int) -> int:
    """Threads for each of so many processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def command_line(stage: Stage, device: str) -> list[str]:
    """The command and options that do a stage; its settings are in its folder.

    The manifests of this study name files wherever the data lie; what the user's own folders may name was checked
    before.
    """
    command = [COMMANDS[stage.kind]]
    for name, value in {**stage.options, "out": stage.folder, "config": stage.folder / "settings.yaml"}.items():
        for entry in value if isinstance(value, list) else [] if value is None else [value]:
            command += [f"--{name.replace('_', '-')}", str(entry)]
    return [*command, "--set", "data.outside=true", "--resume", "--device", device]


def _lock_one(ready: list[Stage]) -> tuple[Stage, StageLock] | None:
    for stage in ready:
        lock = StageLock.take(stage)
        if lock is not None:
            return stage, lock
    return None


def _blocked(stage: Stage, failed: dict[str, str]) -> bool:
    return stage.key in failed or any(_blocked(need, failed) for need in stage.needs)


def _perform(stage: Stage, lock: StageLock, device: str, failed: dict[str, str]) -> bool:
    """Do a stage in this process; whether it ended well."""
    try:
        perform(stage, device)
    except InputError as error:
        _fail(stage, str(error), failed)
        return False
    finally:
        lock.release()
    return True


def _start(stage: Stage, lock: StageLock, device: str, workers: int) -> Work:
    prepare(stage)
    count = str(threads(workers))
    environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    with (stage.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", worker_process.__name__, *command_line(stage, device)],
            stdin=subprocess.PIPE,  # closed when this process ends, and then the worker ends too
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock.descriptor,) if sys.platform != "win32" else (),
            start_new_session=True,  # the interrupt of a terminal goes to this process alone, which passes it on once
        )
    return Work(stage, lock, process)


def _ended(running: list[Work], failed: dict[str, str]) -> list[Stage]:
    """Take note of the processes that have ended; the stages that ended well."""
    ended = [work for work in running if work.process.poll() is not None]
    for work in ended:
        running.remove(work)
        _conclude(work, failed)
    return [work.stage for work in ended if work.stage.done]


def _conclude(work: Work, failed: dict[str, str]) -> None:
    status = work.process.returncode
    try:
        if status == 0:
            seconds = time.monotonic() - work.begun
            finish(work.stage, seconds, None)
            notify(f"done in {seconds:.0f} s: {work.stage.label}")
        elif status in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        else:
            _fail(work.stage, _reason(work.stage.folder / "log.txt", status), failed)
    finally:
        _close(work)


def _reason(log: Path, status: int) -> str:
    """Why a worker failed: its own line about it, where it ended with one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if status == 2 and told else f"ended with status {status}; see {log}"


def _fail(stage: Stage, reason: str, failed: dict[str, str]) -> None:
    failed[stage.key] = f"{stage.label}: {reason}"
    notify(f"failed: {failed[stage.key]}")


def _close(work: Work) -> None:
    if work.process.stdin is not None:
        work.process.stdin.close()
    work.lock.release()


@contextmanager
def _pool() -> Iterator[list[Work]]:
    """The processes at work; however the block ends, they are asked to save and stop, and are waited for."""
    running: list[Work] = []

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        previous = None
    try:
        yield running
    finally:
        if running:
            notify(f"stopping {len(running)} stages after their step; press Ctrl-C again to stop at once")
        try:
            for work in running:
                work.process.send_signal(signal.SIGINT)
            for work in running:
                work.process.wait(PATIENCE)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            for work in running:
                work.process.kill()
                work.process.wait()
        finally:
            for work in running:
                _close(work)
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
