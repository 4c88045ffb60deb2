"""What long work says of itself where there is no terminal."""

import io
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from siamese_diffusion import progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


def test_a_line_every_half_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar() as shown:
        shown.get_time = clock
        task = shown.add_task("training", total=200)
        for step in range(100):
            clock.now += 1
            shown.update(task, completed=step + 1, note="loss 0.25")
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training:")]
        assert len(said) == 3
        assert said[0] == "training: 30 of 200, 0:00:30 gone, 0:02:50 left, loss 0.25"
        clock.now += 31
        shown.update(task, completed=200)  # its end is said by the bar itself
        assert "training: 200" not in capsys.readouterr().err


def test_items_of_any_kind_are_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def slow() -> Any:
        for item in range(40):
            clock.now += 1
            yield item

    assert list(progress.track(slow(), "reading")) == list(range(40))
    assert "reading: 30, " in capsys.readouterr().err
    assert list(progress.track([1, 2, 3], "listing")) == [1, 2, 3]


def test_a_short_stage_says_nothing_in_between(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress.track(range(50), "quick"))
    assert "quick: " not in capsys.readouterr().err


def test_a_terminal_has_a_bar_and_no_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr(Console, "is_terminal", True)
    with progress.bar() as shown:
        task = shown.add_task("training", total=200)
        for step in range(100):
            clock.now += 1
            shown.update(task, completed=step + 1, note="loss 0.25")
    assert "gone" not in file.getvalue()
    assert "loss 0.25" in file.getvalue()


class TestPace:
    """How long a stage takes, once its first steps are done."""

    def told(self, seconds_a_step: float, total: int, start: int = 0) -> list[tuple[int, str]]:
        pace, said, now = progress.Pace("siamese", start, total), [], 500.0
        for done in range(start + 1, total + 1):
            now += 100 if done == start + 1 else seconds_a_step  # the first one compiles
            if pace.asks(done) and (text := pace.note(done, now)):
                said.append((done, text))
        return said

    def test_it_is_told_once_and_the_first_step_does_not_count(self) -> None:
        ((step, text),) = self.told(2.0, 1210)
        assert step == 10
        assert text.startswith("siamese: 1200 more steps take about 0:40:00 here, until ")

    def test_a_resumed_stage_tells_what_is_left(self) -> None:
        ((step, text),) = self.told(2.0, 1210, start=600)
        assert step == 610
        assert "600 more steps take about 0:20:00" in text

    def test_a_short_one_says_nothing(self) -> None:
        assert self.told(0.05, 1000) == []
        assert self.told(100, 9) == []
