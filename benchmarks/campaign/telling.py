"""What a campaign found, as it goes and at its end."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class Report:
    """Collects the trials of one part.

    Args:
        part: its name.
        seed: of its trials.
        kept: folder that gets what a command said in a trial that found something.
    """

    def __init__(self, part: str, seed: int, kept: Path) -> None:
        self.part, self.seed, self.kept = part, seed, kept.absolute()
        self.begun = time.monotonic()
        self.trials: Counter[str] = Counter()
        self.found: dict[tuple[str, str], list[tuple[int, str]]] = {}

    def each(self, trials: range) -> Iterator[int]:
        """The trials; they end early, and well, when this process is asked to stop. Tells how far they are."""
        asked = False

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        for done, trial in enumerate(trials, start=1):
            yield trial
            if done % 20 == 0:
                print(f"{done} trials in {time.monotonic() - self.begun:.0f} s", file=sys.stderr, flush=True)
            if asked:
                return

    def note(self, trial: int, name: str, told: list[str], how: str, transcript: list[str]) -> None:
        """A trial is done: `told` is what is wrong, `how` it was disturbed."""
        self.trials[name] += 1
        for words in told:
            self.found.setdefault((name, words), []).append((trial, how))
            print(f"trial {trial}, {name}, {how}: {words}", file=sys.stderr, flush=True)
        if told:
            self.kept.mkdir(parents=True, exist_ok=True)
            (self.kept / f"{self.part}-{self.seed}-{trial}.txt").write_text("\n".join(transcript))

    def end(self, more: str = "") -> int:
        """Tell it all; the exit status."""
        for name, count in sorted(self.trials.items()):
            print(f"{name:36}{count}")
        for (name, words), trials in sorted(self.found.items()):
            print(f"\n{len(trials)} x {name}: {words}\n    trial {trials[0][0]}, {trials[0][1]}")
        seconds = time.monotonic() - self.begun
        total = self.trials.total()
        print(f"\n{self.part}, seed {self.seed}: {total} trials in {seconds:.0f} s, {len(self.found)} findings")
        if more:
            print(more)
        return 1 if self.found else 0
