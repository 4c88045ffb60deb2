"""How fast a loop goes and for how long its device waits: on a clock that the test turns, with a queue for a GPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_loop import SETTINGS, Model, batch_at
from torch import Tensor

from siamese_diffusion import speed
from siamese_diffusion.files import read_jsonl
from siamese_diffusion.loop import run
from siamese_diffusion.run_status import _fast, _speed
from siamese_diffusion.speed import Speed


class Clock:
    """Of the program; what a GPU was given is done at `queue`."""

    def __init__(self) -> None:
        self.now = self.queue = 0.0

    def perf_counter(self) -> float:
        return self.now

    def launch(self, seconds: float) -> None:
        self.queue = max(self.queue, self.now) + seconds

    def batches(self, *seconds: float) -> Iterator[int]:
        for number, each in enumerate(seconds):
            self.now += each
            yield number


@dataclass
class Event:
    at: float

    def elapsed_time(self, other: "Event") -> float:
        return 1000 * (other.at - self.at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("siamese_diffusion.speed.time.perf_counter", made.perf_counter)
    monkeypatch.setattr(speed, "_mark", lambda device: Event(max(made.now, made.queue)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    return made


def test_on_a_processor_the_making_of_batches_is_waiting(clock: Clock) -> None:
    measured, batches = Speed(torch.device("cpu"), 8, 0), clock.batches(1.0, 1.0, 0.5)
    for _ in range(2):
        measured.next(batches)
        clock.now += 3
        measured.end_step()
    measured.stop()
    clock.now += 100  # a grid is drawn
    assert measured.figures() == {"seconds_a_step": 4.0, "samples_a_second": 2.0, "waiting": 0.25}
    measured.next(batches)
    clock.now += 1.5
    measured.end_step()
    measured.stop()
    assert measured.figures() == {"seconds_a_step": 2.0, "samples_a_second": 4.0, "waiting": 0.25}


@pytest.mark.parametrize(("making", "waiting"), [(1.0, 1 / 21), (1.9, 1.9 / 21.9), (4.0, 22 / 42)])
def test_a_gpu_waits_only_where_its_queue_is_empty(clock: Clock, making: float, waiting: float) -> None:
    """A step takes it two seconds, which the program does not wait for. The first batch is waited for; each other one
    only for as long as it takes more than the step before it."""
    device = torch.device("cuda", 0)
    measured, batches = Speed(device, 4, 0), clock.batches(*[making] * 10)
    for _ in range(10):
        measured.next(batches)
        clock.launch(2.0)
        measured.end_step()
    clock.now = max(clock.now, clock.queue)  # the log waits
    measured.stop()
    found = measured.figures()
    whole = making + 9 * max(2.0, making) + 2
    assert found["seconds_a_step"] == pytest.approx(whole / 10)
    assert found["waiting"] == pytest.approx(waiting)
    assert found["peak_gib"] == 1.5


def test_the_user_is_told_once_that_a_gpu_waits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("siamese_diffusion.speed.progress.notify", told.append)
    measured = Speed(torch.device("cuda", 0), 4, 2)
    for line in range(4):
        measured.next(clock.batches(1.0))
        clock.launch(1.0)
        measured.end_step()
        clock.now = clock.queue
        measured.stop()
        measured.figures()
        assert len(told) == (line > 0)
    assert told == [
        "the device waits 50 % of the time for batches; more processes may make them ahead (workers, now 2)"
    ]


def test_a_loop_writes_them_apart_from_its_log(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def killed(step: int, rows: range) -> dict[str, Tensor]:
        if step == 10:
            raise KilledError
        return batch_at(step, rows)

    with pytest.raises(KilledError):
        run(Model(), killed, SETTINGS, tmp_path, device="cpu")
    assert [row["step"] for row in read_jsonl(tmp_path / "speed.jsonl")] == [3, 6, 9]
    run(Model(), batch_at, SETTINGS, tmp_path, resume=True, device="cpu")  # from step 8
    rows = read_jsonl(tmp_path / "speed.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in read_jsonl(tmp_path / "log.jsonl")] == [3, 6, 9, 12]
    for row in rows:
        assert row["seconds_a_step"] * row["samples_a_second"] == pytest.approx(SETTINGS.batch_size)
        assert 0 <= row["waiting"] <= 1
    assert "seconds_a_step" not in (tmp_path / "log.jsonl").read_text()
    newest = _speed(tmp_path)
    assert newest is not None
    assert newest["samples_a_second"] == rows[-1]["samples_a_second"]
    assert _speed(tmp_path / "nothing") is None


def test_how_status_says_it() -> None:
    slow = {"seconds_a_step": 2.0, "samples_a_second": 24.04, "waiting": 0.034}
    assert _fast(slow) == "; 24 images a second"
    assert _fast(slow | {"peak_gib": 51.23}) == (
        "; 24 images a second, the device waits 3 % of the time, 51.2 GiB at most"
    )
