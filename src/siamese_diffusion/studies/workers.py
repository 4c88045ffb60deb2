"""Do the stages of a plan, one after another or several side by side; stop and go on at any moment.

Unusual in it: a stage is claimed by a lock on a file in its folder, which the process that does the work holds and the
system drops when that process ends, however it ends. So two studies may share a folder, a killed one leaves nothing to
clean up, and a stage whose parent was killed is waited for.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from siamese_diffusion.config import DataConfig, build_config, update
from siamese_diffusion.data.copypaste import copy_paste
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.layouts.manifest import row_of
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from siamese_diffusion.progress import say
from siamese_diffusion.studies.plan import Plan
from siamese_diffusion.studies.select import select
from siamese_diffusion.studies.stages import COMMANDS, Stage

PATIENCE = 120.0
"""Seconds that an interrupted stage has to finish its step and save."""


class Claim:
    """The right to work on a stage, until `release` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".lock").open("a")

    @classmethod
    def take(cls, stage: Stage) -> "Claim | None":
        """Claim a stage; None where another process has it."""
        claim = cls(stage.folder)
        if sys.platform != "win32":  # there, one study at a time is up to the user
            import fcntl

            try:
                fcntl.flock(claim._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                claim._file.close()
                return None
        return claim

    @property
    def descriptor(self) -> int:
        """To be inherited by a process that does the work, so that the claim lives as long as it."""
        return self._file.fileno()

    def release(self) -> None:
        self._file.close()


@dataclass
class Work:
    """A stage that a process of its own is doing."""

    stage: Stage
    claim: Claim
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
        write_jsonl(folder / "pairs.jsonl", map(row_of, pairs))
    workers = plan.study.file.workers
    failed: dict[str, str] = {}
    waiting = total = 0
    with _pool() as running:
        while True:
            ended = [work for work in running if work.process.poll() is not None]
            for work in ended:
                running.remove(work)
                _conclude(work, failed)
            wanted = [stage for stage in plan.wanted() if not _blocked(stage, failed)]
            for stage in {work.stage.key: work.stage for work in ended if work.stage.done}.values():
                finished(stage)
            if not wanted:
                return failed
            total = max(total, len(wanted))
            busy = {work.stage.key for work in running}
            ready = [stage for stage in wanted if stage.key not in busy and all(need.done for need in stage.needs)]
            claimed = _claim_one(ready) if len(running) < workers else None
            if claimed is not None:
                stage, claim = claimed
                waiting = 0
                if stage.done:  # by another process, since we looked
                    claim.release()
                    finished(stage)
                    continue
                say(f"[{total - len(wanted) + len(busy) + 1}/{total}] {stage.label}")
                if workers > 1 and stage.kind in COMMANDS:
                    running.append(_start(stage, claim, device, workers))
                elif _here(stage, claim, device, failed):
                    finished(stage)
                continue
            if ready and not running and not waiting:
                say(f"another process is at work on: {ready[0].label}; waiting for it")
                waiting = 1
            time.sleep(0.2 if running else 1.0)


def threads(workers: int) -> int:
    """Threads for each of so many processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def command_line(stage: Stage, device: str) -> list[str]:
    """The command and options that do a stage; its settings are in its folder.

    The manifests of this study name files wherever the data lie; what the user's own folders may name was checked before.
    """
    command = [COMMANDS[stage.kind]]
    for name, value in {**stage.arguments, "out": stage.folder, "config": stage.folder / "settings.yaml"}.items():
        for entry in value if isinstance(value, list) else [] if value is None else [value]:
            command += [f"--{name.replace('_', '-')}", str(entry)]
    return [*command, "--set", "data.outside=true", "--resume", "--device", device]


def _claim_one(ready: list[Stage]) -> tuple[Stage, Claim] | None:
    for stage in ready:
        claim = Claim.take(stage)
        if claim is not None:
            return stage, claim
    return None


def _blocked(stage: Stage, failed: dict[str, str]) -> bool:
    return stage.key in failed or any(_blocked(need, failed) for need in stage.needs)


def _here(stage: Stage, claim: Claim, device: str, failed: dict[str, str]) -> bool:
    begun = time.monotonic()
    try:
        values = _prepare(stage)
        result: Any = None
        if stage.kind == "copy-paste":
            arguments = dict(stage.arguments)
            pairs = DataFolder(arguments.pop("pairs"), settings=DataConfig(outside=True)).pairs()
            result = copy_paste(pairs, stage.folder, **arguments, resume=True)
        elif stage.kind == "filter":
            result = select(out=stage.folder / "pairs", **stage.arguments)
        else:
            import siamese_diffusion

            command = getattr(siamese_diffusion, COMMANDS[stage.kind])
            config = update(build_config(values, str(stage.folder / "settings.yaml")), "data", outside=True)
            result = command(**stage.arguments, out=stage.folder, config=config, resume=True, device=device)
        _finish(stage, time.monotonic() - begun, result)
    except InputError as error:
        failed[stage.key] = f"{stage.label}: {error}"
        say(f"failed: {failed[stage.key]}")
        return False
    finally:
        claim.release()
    return True


def _start(stage: Stage, claim: Claim, device: str, workers: int) -> Work:
    _prepare(stage)
    count = str(threads(workers))
    environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    with (stage.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "siamese_diffusion", *command_line(stage, device)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(claim.descriptor,) if sys.platform != "win32" else (),
            start_new_session=True,  # the interrupt of a terminal goes to this process alone, which passes it on once
        )
    return Work(stage, claim, process)


def _conclude(work: Work, failed: dict[str, str]) -> None:
    status = work.process.returncode
    log = work.stage.folder / "log.txt"
    try:
        if status == 0:
            seconds = time.monotonic() - work.begun
            _finish(work.stage, seconds, None)
            say(f"done in {seconds:.0f} s: {work.stage.label}")
        elif status in (130, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        else:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            message = told[-1] if status == 2 and told else f"ended with status {status}; see {log}"
            failed[work.stage.key] = f"{work.stage.label}: {message}"
            say(f"failed: {failed[work.stage.key]}")
    finally:
        work.claim.release()


def _prepare(stage: Stage) -> dict[str, Any]:
    """Write down what the stage is; one that was begun keeps its settings, which differ in nothing that matters."""
    noted, settings = stage.folder / "stage.json", stage.folder / "settings.yaml"
    arguments = {name: _plain(value) for name, value in stage.arguments.items()}
    if noted.exists() and settings.exists() and read_json(noted)["arguments"] == arguments:
        values: dict[str, Any] = yaml.safe_load(settings.read_text(encoding="utf-8"))
        return values
    for path in stage.folder.iterdir():  # begun with folders that have moved since: what it wrote names the old ones
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()
    write_text(settings, yaml.safe_dump(_plain(stage.values), sort_keys=True))
    needs = [need.folder.name for need in stage.needs]
    about = {"kind": stage.kind, "label": stage.label, "depends": stage.depends, "needs": needs, "arguments": arguments}
    write_json(noted, about)
    return stage.values


def _finish(stage: Stage, seconds: float, returned: dict[str, Any] | None) -> None:
    result = returned or {}
    for name in ("metrics.json", "summary.json"):
        if (stage.folder / name).exists():
            result = read_json(stage.folder / name)
    if stage.kind == "segment":
        result = {**result, "steps": max(row["step"] for row in read_jsonl(stage.folder / "log.jsonl"))}
    write_json(stage.folder / "done.json", {"label": stage.label, "seconds": round(seconds, 1), "result": result})
    for part in ("checkpoints", "cache"):  # only there to go on from
        shutil.rmtree(stage.folder / part, ignore_errors=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


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
            say(f"stopping {len(running)} stages after their step; press Ctrl-C again to stop at once")
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
                work.claim.release()
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
