"""What a campaign found, as it goes and at its end."""

import sys
import time
from collections import Counter
from pathlib import Path


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
