"""`faults.py kills`: a command is ended at a random moment, and the same command goes on to what an undisturbed one
leaves.

Half of the trials end it at a moment when it changes a file, the other half at a time of its run; some do so several
times. SIGTERM and SIGINT are asked for twice in a third of the trials: at once, or a little later.
"""

import contextlib
import functools
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign import forks, moments
from campaign.commands import Command
from campaign.forks import Ended
from campaign.outcome import differences
from campaign.stage import Stage, drawn, prepared
from campaign.telling import Report
from siamese_diffusion import lock

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDED = {0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
"""How a command may end that was told to, or that had ended before."""


@dataclass(frozen=True)
class Kill:
    """When a command gets which signal, and when again."""

    number: signal.Signals
    moment: int | None
    """Number of the change of a file before which it comes; None: it comes at a time."""
    time: float
    """Share of the command's seconds after which it comes."""
    again: int | None
    """Moments, or hundredths of a second, after which it comes again; None: it does not."""

    @classmethod
    def draw(cls, draw: random.Random, count: int) -> "Kill":
        number = draw.choice(SIGNALS)
        twice = number != signal.SIGKILL and draw.random() < 1 / 3
        by_moment = draw.random() < 0.5
        return cls(
            number,
            draw.randrange(count) if by_moment else None,
            draw.uniform(0, 1.1),
            draw.choice((0, 0, 1, 3, 10)) if twice else None,
        )

    def __str__(self) -> str:
        when = f"{self.time:.0%} of its time" if self.moment is None else f"moment {self.moment}"
        return f"{self.number.name} at {when}" + (f", again {self.again} later" if self.again is not None else "")

    def within(self, place: Path, call: Callable[[], None]) -> None:
        """In the fork: do the call, and end it at its moment."""
        due = set() if self.moment is None else {self.moment, self.moment + (self.again or 0)}
        if self.moment is not None:

            def do(number: int, what: str, name: str) -> None:
                if number in due:
                    os.kill(os.getpid(), self.number)
                    if self.again == 0:
                        os.kill(os.getpid(), self.number)

            moments.at_each(do, place)
        call()

    def from_outside(self, seconds: float, process: int) -> None:
        """Beside the fork: send it the signal at its time."""
        if self.moment is not None:
            return
        time.sleep(self.time * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, self.number)
            if self.again is not None:
                time.sleep(self.again / 100)
                os.kill(process, self.number)


def attempt(stage: Stage, command: Command, kills: Sequence[Kill]) -> list[str]:
    """End a command so, one kill after another, and let it go on; what is wrong with that, in words."""
    stage.clear()
    told: list[str] = []
    for number, kill in enumerate(kills):
        call = stage.call(command, again=number > 0)
        ended = forks.run(
            functools.partial(kill.within, stage.place, call),
            stage.place,
            stage.said,
            functools.partial(kill.from_outside, stage.seconds[command.name]),
        )
        stage.transcript.append(f"# {kill}\n{ended.words}")
        told += wrong_end(ended, ENDED, finished=command.refuses_finished and _is_whole(stage, command))
        if left := forks.orphans():
            told.append(f"leaves {len(left)} processes behind")
    told += go_on(stage, command)
    return told


def go_on(stage: Stage, command: Command) -> list[str]:
    """Let a command go on, undisturbed; what is wrong with how it ends and what it leaves, in words."""
    whole = command.refuses_finished and _is_whole(stage, command)
    ended = forks.run(stage.call(command, again=True), stage.place, stage.said)
    stage.transcript.append(f"# goes on\n{ended.words}")
    told = wrong_end(ended, {0}, finished=whole)
    told = [f"goes on: {words}" for words in told]
    return told or differences(stage.found(command), stage.expected[command.name])[:3]


def _is_whole(stage: Stage, command: Command) -> bool:
    """Whether all is there; the lock of a process that was killed as it ended is the next call's to take away."""
    found = {name: content for name, content in stage.found(command).items() if Path(name).name != lock.NAME}
    return not differences(found, stage.expected[command.name])


def wrong_end(ended: Ended, right: set[int], finished: bool = False) -> list[str]:
    """What is wrong with how a command ended, in words.

    Args:
        ended: how.
        right: the statuses that it may end with.
        finished: whether it may refuse, since it is done already.
    """
    told = ["hangs"] if ended.hung else []
    lines = [line for line in ended.words.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if ended.status not in right and not (finished and ended.status == 2) and not ended.hung:
        told.append(f"ends with {ended.status}: {(errors or lines or ['without a word'])[-1][:200]}")
    if "Traceback" in ended.words or len(errors) > 1:
        told.append(f"says more than a line: {lines[-1][:200]}")
    return told


def run(seed: int, trials: range, kept: Path, commands: Sequence[Command]) -> int:
    """Do the trials, tell what was found, and return the exit status."""
    report = Report("kills", seed, kept)
    with tempfile.TemporaryDirectory(dir=scratch_in()) as scratch, prepared(Path(scratch), commands) as stage:
        counts: Counter[str] = Counter()
        for trial in report.each(trials):
            draw = random.Random(f"{seed}-{trial}-kill")
            command = drawn(draw, commands)
            kills = [Kill.draw(draw, stage.moments[command.name]) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
            told = attempt(stage, command, kills)
            counts.update(kill.number.name for kill in kills)
            report.note(trial, command.name, told, "; ".join(map(str, kills)), stage.transcript)
    return report.end(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


def scratch_in() -> str | None:
    """Where a file costs nothing: half of the campaign's time would be waiting for a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
