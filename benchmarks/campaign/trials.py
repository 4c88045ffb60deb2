"""One trial: a copy of an entrance's folder with one file damaged, read, and judged."""

import contextlib
import io
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign.damage import mutate
from campaign.entrance import Entrance
from siamese_diffusion.errors import InputError

SECONDS, BYTES, LETTERS = 2.0, 1 << 30, 1500
"""What a trial may take: processor time, memory besides what the libraries take, and length of the line."""


@dataclass(frozen=True)
class Finding:
    """A trial that did not end as it should."""

    trial: int
    entrance: str
    what: str
    kept: str = ""
    """The damaged file."""


class Said:
    """What a block said on standard output and standard error."""

    out = ""
    err = ""


def entrance_of(seed: int, trial: int, entrances: Sequence[Entrance]) -> Entrance:
    """The entrance that a trial is for."""
    weights = [entrance.weight for entrance in entrances]
    return random.Random(f"{seed}-{trial}").choices(entrances, weights)[0]


def damage(seed: int, trial: int, entrance: Entrance, good: Path, folder: Path) -> Path:
    """Make `folder` a copy of `good` with one file damaged; that file."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    draw = random.Random(f"{seed}-{trial}-damage")
    path = draw.choice(sorted(path for path in folder.glob(draw.choice(entrance.damaged)) if path.is_file()))
    path.write_bytes(mutate(draw, path))
    return path


def keep(path: Path, kept: Path, seed: int, trial: int) -> str:
    """Copy a damaged file to where it is found after the campaign."""
    target = kept / f"{seed}-{trial}" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return str(target)


def attempt(entrance: Entrance, folder: Path, damaged: Path, most: float = SECONDS) -> tuple[str, str | None]:
    """Read a damaged folder, in at most so many seconds.

    Returns:
        How it ended: "read", "refused" or "failed"; and what is wrong with that, None where nothing is.
    """
    before, spent = reset_peak(), time.process_time()
    with silence() as said:
        verdict, wrong = judged(entrance, folder, damaged)
    seconds, grown = time.process_time() - spent, peak() - before
    if entrance.is_command and wrong is None:
        wrong = wrong_words(said)
    if seconds > most:
        wrong = wrong or f"took more than {most:.0f} s"
    if grown > BYTES:
        wrong = wrong or "took more than 1 GB"
    return ("failed" if wrong else verdict), wrong


def judged(entrance: Entrance, folder: Path, damaged: Path) -> tuple[str, str | None]:
    """How it ended, and what is wrong with that."""
    try:
        value = entrance.read(folder, damaged)
        return "read", None if entrance.right(value) else "the answer cannot be right"
    except InputError as error:
        lines, letters = len(str(error).splitlines()), len(str(error))
        return "refused", f"refused in {lines} lines, {letters} letters" if lines != 1 or letters > LETTERS else None
    except SystemExit as error:
        code = error.code or 0
        return ("refused" if code else "read"), None if code in (0, 2) else f"exit status {code}"
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return "failed", f"{type(error).__name__} in {place(error)}"


def wrong_words(said: Said) -> str | None:
    """What is wrong with the words of a command."""
    if "Traceback" in said.err + said.out or "Warning: " in said.err:
        return f"says more than one line: {' '.join(said.err.split())[:200]}"
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    return f"says {len(errors)} errors" if len(errors) > 1 else None


def place(error: BaseException) -> str:
    """Where this package raised, or called what did."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if "siamese_diffusion" in frame.filename] or frames)[-1]
    return f"{Path(last.filename).name}:{last.name} ({' '.join(str(error).split())[:60]})"


@contextlib.contextmanager
def silence() -> Iterator[Said]:
    """Keep what the block says, from Python and from below; it can be asked for after the block."""
    said = Said()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, contextlib.ExitStack() as stack:
        words = io.StringIO(), io.StringIO()
        saved = [os.dup(number) for number in (1, 2)]
        sys.stdout.flush()
        sys.stderr.flush()
        for number, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), number)
        stack.enter_context(contextlib.redirect_stdout(words[0]))
        stack.enter_context(contextlib.redirect_stderr(words[1]))
        try:
            yield said
        finally:
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)
            out.seek(0)
            err.seek(0)
            said.out = words[0].getvalue() + out.read().decode(errors="replace")
            said.err = words[1].getvalue() + err.read().decode(errors="replace")


def reset_peak() -> int:
    """Begin to measure the most memory that this process has; what it has now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most memory that this process had since `reset_peak`, in bytes; where that cannot be had, since it began."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
