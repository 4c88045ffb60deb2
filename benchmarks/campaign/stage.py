"""Where `kills` and `disk` are done: what the commands read, what each leaves undisturbed, and an empty place for each
trial."""

import contextlib
import functools
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from campaign import forks, hub, moments
from campaign.commands import COMMANDS, Command, Sources, register_release
from campaign.outcome import contents, differences


@dataclass
class Stage:
    """What all trials share.

    Attributes:
        sources: what the commands read.
        place: the folder that a command runs in; empty before each trial.
        said: the file that gets its words.
        expected: by command, what it leaves undisturbed.
        moments: by command, how many there are in it.
        reads: by command, how many files it opens for reading.
        most: by command, bytes of what it leaves.
        seconds: by command, how long it takes.
        transcript: what was said since the place was emptied.
    """

    sources: Path
    place: Path
    said: Path
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    moments: dict[str, int] = field(default_factory=dict)
    reads: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    transcript: list[str] = field(default_factory=list)

    def call(self, command: Command, again: bool = False) -> Callable[[], None]:
        """What a fork does."""
        return functools.partial(forks.command_line, command.line(self.sources, again))

    def clear(self) -> None:
        """Empty the place; it stays the same folder, which may be a mount."""
        self.transcript.clear()
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def found(self, command: Command) -> dict[str, str]:
        """What lies in the place."""
        return contents(self.place, command.drawn, without=(hub.CACHE,))

    def rehearse(self, command: Command) -> None:
        """Run a command twice, undisturbed: what it leaves, which has to be the same, or nothing could be compared."""
        counter, modules = self.said.with_name("count"), self.said.with_name("modules")
        reads = self.said.with_name("reads")
        found: list[dict[str, str]] = []
        for counting in (True, False):
            self.clear()

            def call(counting: bool = counting) -> None:
                if counting:
                    count_moments(self.place, counter)
                    count_moments(self.place.parent, reads, reading=True)
                try:
                    self.call(command)()
                finally:
                    modules.write_text("\n".join(sys.modules))

            ended = forks.run(call, self.place, self.said)
            if ended.status:
                raise AssertionError(f"{command.name} does not end well:\n{ended.words}")
            forks.load(modules.read_text().split())
            found.append(self.found(command))
            self.seconds[command.name] = ended.seconds  # of the second, which had everything imported
        if told := differences(*found):
            raise AssertionError(f"{command.name} is not the same twice: {', '.join(told)}")
        self.expected[command.name] = found[1]
        self.moments[command.name] = counter.stat().st_size
        self.reads[command.name] = reads.stat().st_size
        blocks = (-path.stat().st_size // -4096 + 1 for path in self.place.rglob("*"))
        self.most[command.name] = 4096 * sum(blocks)


def count_moments(place: Path, counter: Path, reading: bool = False) -> None:
    """From now on a byte is added to the file `counter` at each moment; see `moments.at_each`."""
    file = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def count(number: int, what: str, name: str) -> None:
        os.write(file, b".")

    moments.at_each(count, place, reading)


@contextlib.contextmanager
def prepared(scratch: Path, commands: Sequence[Command]) -> Iterator[Stage]:
    """Import everything, make what the commands read, and rehearse each of them.

    Args:
        scratch: an empty folder.
        commands: of `COMMANDS`.
    """
    stage = Stage(scratch / "sources", scratch / "place", scratch / "said")
    stage.place.mkdir(exist_ok=True)

    def call(line: list[str]) -> None:
        forks.do(functools.partial(forks.command_line, line), scratch, stage.said)

    with hub.serving(stage.sources, stage.place / hub.CACHE) as address:
        forks.warm(networks=not all(command.light for command in commands))
        sources = Sources(stage.sources, call, lambda made: forks.do(made, scratch, stage.said))
        register_release(f"{address}/faults.zip")
        for command in commands:
            sources.need(" ".join((*command.arguments, command.serves)))
            stage.rehearse(command)
        yield stage


def choose(names: str) -> list[Command]:
    """The commands whose names begin with one of `names`, which commas separate; without any, those that are quick;
    of "all", all."""
    if not names:
        return [command for command in COMMANDS if not command.by_hand]
    if names == "all":
        return list(COMMANDS)
    return [command for command in COMMANDS if command.name.startswith(tuple(names.split(",")))]


def drawn(draw: random.Random, commands: Sequence[Command]) -> Command:
    """One of them, by their weights."""
    return draw.choices(commands, [command.weight for command in commands])[0]
