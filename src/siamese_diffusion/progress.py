"""Progress and messages, all on standard error so that standard output stays machine-readable.

A terminal or a notebook shows a bar. Where there is neither (a file, Slurm, CI) a line every half minute says how far
a long stage is.
"""

import time
from collections.abc import Iterable, Iterator, Sized
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

T = TypeVar("T")

PAUSE = 30.0
"""Seconds between two lines of a stage, where there is no terminal."""


def notify(message: str) -> None:
    """One line to the user, on standard error."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)


def bar() -> "Progress":
    """A progress bar with the count, the elapsed time and an estimate of what remains; or lines, see above.

    A task may have a field `note`, which is shown behind: `bar.update(task, note="loss 0.12")`.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return _kind(lines=not (console.is_terminal or _draws_in_notebook(console)))(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        speed_estimate_period=60,
    )


def _draws_in_notebook(console: "Console") -> bool:
    """Whether a bar moves in place below the cell of a notebook, which takes ipywidgets; without, rich shows none."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar."""
    with bar() as progress:
        count = len(items) if isinstance(items, Sized) else None
        task = progress.add_task(description, total=count if total is None else total)
        for item in items:
            yield item
            progress.advance(task)


def _kind(lines: bool) -> "type[Progress]":
    """A `Progress` whose tasks have a note, and which, with `lines`, also prints a line now and then; made here since
    rich is loaded late."""
    from rich.progress import Progress, TaskID

    class Noted(Progress):
        def __init__(self, *columns: Any, **options: Any) -> None:
            super().__init__(*columns, **options)
            self.said = time.monotonic()

        def add_task(self, description: str, *arguments: Any, **fields: Any) -> TaskID:
            return super().add_task(description, *arguments, **{"note": "", **fields})

        def advance(self, task_id: TaskID, advance: float = 1) -> None:
            super().advance(task_id, advance)
            self._say(task_id)

        def update(self, task_id: TaskID, **changes: Any) -> None:
            super().update(task_id, **changes)
            self._say(task_id)

        def _say(self, task_id: TaskID) -> None:
            task = self._tasks[task_id]
            if lines and time.monotonic() - self.said >= PAUSE and task.visible and not task.finished:
                self.said = time.monotonic()
                notify(line(task))

    return Noted


def line(task: "Task") -> str:
    """How far a stage is, in a line: name, count, time gone, time left, and its note."""
    of = "" if task.total is None else f" of {task.total:.0f}"
    left = task.time_remaining
    parts = [f"{task.description}: {task.completed:.0f}{of}", f"{clock(task.elapsed or 0)} gone"]
    parts += [f"{clock(left)} left"] if left is not None else []
    note = task.fields.get("note")
    return ", ".join([*parts, *([note] if note else [])])


class Pace:
    """How long a stage of equal steps takes here, told once its first steps are done.

    The first of them does not count: it compiles, allocates and waits for its batch.

    Args:
        description: of the stage.
        start: steps done before.
        total: steps in all.
    """

    LOOKED_AT = 10
    """Steps."""
    WORTH = 60.0
    """Seconds that a stage takes at least to be told."""

    def __init__(self, description: str, start: int, total: int) -> None:
        self.description, self.total = description, total
        self._first, self._last = start + 1, start + self.LOOKED_AT
        self._begun = 0.0

    def asks(self, done: int) -> bool:
        """Whether `note` wants to know when this step was done: then the device has to be waited for."""
        return done in (self._first, self._last)

    def note(self, done: int, now: float) -> str | None:
        """What to tell after a step, if anything.

        Args:
            done: steps done.
            now: seconds of any clock that goes evenly.
        """
        if done == self._first:
            self._begun = now
            return None
        left = (now - self._begun) / (self._last - self._first) * (self.total - done)
        if done != self._last or left < self.WORTH:
            return None
        end = time.strftime("%H:%M" if left < 12 * 3600 else "%a %d %b %H:%M", time.localtime(time.time() + left))
        return f"{self.description}: {self.total - done} more steps take about {clock(left)} here, until {end}"


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
