"""The command line in a fork of this process, which has everything imported: a trial costs what the command costs.

Design note: this process never computes and never starts a thread, since a fork has none of the threads that were begun
before it and waits for them for good. What the commands read is made in forks, too. Orphans come to this process
instead of to the system's first one, so that it sees whether a command leaves any behind.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import importlib
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import siamese_diffusion
from siamese_diffusion import cli

PATIENCE = 120.0
"""Seconds after which a command is taken to hang: of processor time; or of a clock, where it has used less than a
second of that and does not ask for more. On a crowded machine a command may take long and yet do what it can."""

STOPS = (signal.SIGINT, signal.SIGTERM)
"""What is held back while a fork is made ready, as if it came later."""

SUBREAPER, PARENT_DEATH = 36, 1
"""PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG of prctl(2)."""


KEPT: set[int] = set()
"""Forks that are meant to be there beside a command: servers."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """Exit status, negative for the signal that ended it."""
    words: str
    """What it said, on standard output and standard error."""
    seconds: float
    hung: bool = False


def warm(networks: bool = True) -> None:
    """Import all that a command may, so that forks need not, without `networks` what others need; and make orphans
    ours."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    if not networks:
        return
    import torch

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(siamese_diffusion.__path__, "siamese_diffusion."):
        # the page needs an extra, and no command of the campaign opens it
        if not module.name.endswith("__main__") and ".webapp" not in module.name:
            importlib.import_module(module.name)
    for name in ("StableDiffusionControlNetPipeline", "AutoencoderKL", "UNet2DConditionModel", "DDIMScheduler"):
        getattr(importlib.import_module("diffusers"), name)
    for name in ("CLIPTextModel", "CLIPTokenizer"):
        getattr(importlib.import_module("transformers"), name)
    gc.collect()
    gc.freeze()  # else a fork's first collection copies every page


def end_with_parent() -> None:
    """From now on the system ends this process when the one that began it ends."""
    ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL, 0, 0, 0)


def load(modules: Sequence[str]) -> None:
    """Import what a fork had imported when it ended, so that the next one need not."""
    for name in modules:
        if name not in sys.modules and name != "__main__":
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()


def start(call: Callable[[], object], folder: Path, said: Path, environment: dict[str, str] | None = None) -> int:
    """Begin `call` in a fork, in `folder`; what it says goes to the file `said`. Returns the process's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        atexit._clear()  # what this process is to do at its end, such as removing the folder that trials run in
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        os.setsid()
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ.update(environment or {})
        status = _run(call)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status)


def _run(call: Callable[[], object]) -> int:
    """As the interpreter runs a program, and ends after it."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # what came before the program began ends it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        call()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # it has ended; what follows is the interpreter's
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return status


def command_line(arguments: list[str]) -> None:
    """What `siamese-diffusion` with these arguments does."""
    sys.argv = ["siamese-diffusion", *arguments]
    cli.main()


def wait(process: int, patience: float = PATIENCE) -> tuple[int, bool]:
    """The exit status of a fork, negative for a signal; and whether it hung, and was ended here."""
    until, counted = time.monotonic() + patience, 0.0
    while True:
        with contextlib.suppress(InterruptedError):
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), False
        if time.monotonic() > until:
            spent, waits = _spent(process), not _is_ready(process)
            if (spent < counted + 1 and waits) or spent > patience:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return -signal.SIGKILL, True
            until, counted = time.monotonic() + patience, spent
        time.sleep(0.002)


def _spent(process: int) -> float:
    """Seconds of processor time of a process and of all below it."""
    own = 0.0
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, and those of ended children
    return own + sum(_spent(child) for child in _children(process))


def _is_ready(process: int) -> bool:
    """Whether a process, or one below it, would go on if it got a processor; looked at a few times."""
    for _ in range(20):
        with contextlib.suppress(OSError, IndexError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "RD":
                return True
        if any(_is_ready(child) for child in _children(process)):
            return True
        time.sleep(0.01)
    return False


def run(
    call: Callable[[], object], folder: Path, said: Path, meanwhile: Callable[[int], object] = lambda process: None
) -> Ended:
    """Do `call` in a fork and wait for its end; `meanwhile` gets the process's number, and may send it signals."""
    begun = time.monotonic()
    process = start(call, folder, said)
    meanwhile(process)
    status, hung = wait(process)
    return Ended(status, said.read_text(errors="replace"), time.monotonic() - begun, hung)


def do(call: Callable[[], object], folder: Path, said: Path) -> None:
    """The same for what has to end well."""
    ended = run(call, folder, said)
    if ended.status:
        raise AssertionError(f"status {ended.status} of what should end well:\n{ended.words}")


def orphans(patience: float = 10.0) -> list[int]:
    """Processes that an ended command has left, and that do not end by themselves in so many seconds; they are ended.

    Only of a process that has no forks of its own at work.
    """
    until = time.monotonic() + patience
    while left := [process for process in _children() if process not in KEPT]:
        if time.monotonic() > until:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process, 0)
            return left
        for process in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
        time.sleep(0.002)
    return []


def _children(process: int | str = "self") -> Iterator[int]:
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            yield from map(int, path.read_text().split())
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                raise
