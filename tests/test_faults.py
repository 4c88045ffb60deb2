"""The campaign of `benchmarks/faults.py`: a short one finds nothing, and what is wrong is found."""

import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from siamese_diffusion.errors import InputError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the campaign by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"campaign.{name}")

    return load


def test_damaged_input_is_refused_or_read_right(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "faults.py"), "mutate", "--seed", "4", "--count", "300"]
    result = subprocess.run(
        [*command, "--keep", str(tmp_path / "found")], capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "300 trials" in result.stdout
    assert "refused" in result.stdout
    assert "read" in result.stdout


def breaks(content: bytes) -> object:
    raise KeyError("image")


def hangs(content: bytes) -> object:
    while True:
        pass


def crashes(content: bytes) -> object:
    os.abort()


def runs(content: bytes) -> object:
    return Path("CANARY").write_text("x")


def answers_wrongly(content: bytes) -> object:
    return "wrong"


def takes_much(content: bytes) -> object:
    return len(bytes(b"x" * (3 << 29)))


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        (breaks, "KeyError in"),
        (hangs, "hangs"),
        (crashes, "ends the process with status -6"),
        (runs, "a program in the file was run"),
        (answers_wrongly, "the answer cannot be right"),
        (takes_much, "took more than 1 GB"),
    ],
)
def test_what_is_wrong_is_found(
    campaign: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    reader: Any,
    words: str,
) -> None:
    """A reader that is right on the good file, and does as it says on any other."""
    mutate, entrance = campaign("mutate"), campaign("entrance")
    if reader is hangs:
        monkeypatch.setattr(mutate, "PATIENCE", 3.0)
    else:  # a crowded machine is slow, and that is not what is looked for
        monkeypatch.setattr(mutate, "PATIENCE", 120.0)
        monkeypatch.setattr(mutate, "attempt", functools.partial(mutate.attempt, most=60.0))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    good = b'{"a": [1, 2, 3]}'

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "a.json").write_bytes(good)

    def read(folder: Path, damaged: Path) -> object:
        content = damaged.read_bytes()
        return None if content == good else reader(content)

    broken = entrance.Entrance("broken", make, ("a.json",), read, lambda found: found != "wrong")
    assert mutate.run(0, range(1), 1, tmp_path / "found", [broken]) == 1
    told = capfd.readouterr().out
    assert words in told
    assert "1 findings" in told
    assert list((tmp_path / "found").rglob("a.json"))


def test_a_reader_that_refuses_is_right(campaign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, entrance = campaign("mutate"), campaign("entrance")
    monkeypatch.setenv("PATH", os.environ["PATH"])

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "a.json").write_text("[1]")

    def read(folder: Path, damaged: Path) -> None:
        if damaged.read_text(errors="replace") != "[1]":
            raise InputError("one line")

    assert mutate.run(0, range(20), 2, tmp_path / "found", [entrance.Entrance("whole", make, ("*",), read)]) == 0


def test_the_traps_would_run_where_a_reader_let_them(campaign: Any, tmp_path: Path) -> None:
    """Else that none runs would prove nothing."""
    import pickle

    poisons, canary = campaign("poisons"), tmp_path / "canary"
    ran = 0
    for name, content in poisons.weights(canary):
        if name.startswith("pickle, "):
            pickle.loads(content)
            assert canary.exists(), name
            canary.unlink()
            ran += 1
    assert ran >= 10


def call(part: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A part of the campaign, as it is typed."""
    command = [sys.executable, str(BENCHMARKS / "faults.py"), part, *arguments, "--keep", str(tmp_path / "found")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1200, env=environment)


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks Linux for the processes they leave")


@needs_linux
@pytest.mark.parametrize(("part", "only", "count"), [("kills", "phantoms,data", "16"), ("disk", "phantoms,data", "16")])
def test_a_command_that_is_disturbed_goes_on_to_the_same(part: str, only: str, count: str, tmp_path: Path) -> None:
    result = call(part, tmp_path, "--count", count, "--seed", "3", "--only", only)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{count} trials" in result.stdout


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("part", ["kills", "disk"])
def test_every_command_that_is_disturbed_goes_on_to_the_same(part: str, tmp_path: Path) -> None:
    result = call(part, tmp_path, "--count", "60", "--seed", "4")
    assert result.returncode == 0, result.stdout + result.stderr


@needs_linux
@pytest.mark.slow
def test_many_pairs_need_no_more_memory_than_few(tmp_path: Path) -> None:
    result = call("soak", tmp_path, "--count", "200")
    assert result.returncode == 0, result.stdout + result.stderr


def test_memory_and_files_that_grow_are_found(campaign: Any) -> None:
    soak = campaign("soak")
    flat = [soak.Look(300 << 20, 30) for _ in range(60)]
    leaking = [soak.Look((300 << 20) + i * (1 << 20), 30) for i in range(60)]
    opening = [soak.Look(300 << 20, 30 + i) for i in range(6)]
    assert soak.judge("sample", flat, flat, 750) == []
    assert "memory grows" in soak.judge("sample", flat, leaking, 750)[0]
    assert "5 more files open" in soak.judge("sample", flat, opening, 750)[0]


def test_what_two_runs_leave_is_compared_by_contents(campaign: Any, tmp_path: Path) -> None:
    outcome = campaign("outcome")
    for name, seconds, row in (("a", 1, 1), ("b", 2, 1), ("c", 1, 2)):
        (tmp_path / name / "tensorboard").mkdir(parents=True)
        (tmp_path / name / "tensorboard/events").write_text(name)
        (tmp_path / name / "done.json").write_text(f'{{"seconds": {seconds}, "where": "{tmp_path / name}"}}')
        (tmp_path / name / "rows.csv").write_text(f"{row}\n")
    first, again, other = (outcome.contents(tmp_path / name) for name in "abc")
    assert outcome.differences(again, first) == []
    assert outcome.differences(other, first) == ["differs in rows.csv"]
    (tmp_path / "b/.123.rows.csv").write_text("half")
    assert outcome.differences(outcome.contents(tmp_path / "b"), first) == ["leaves .N.rows.csv"]


@needs_linux
def test_wrong_ends_are_found(campaign: Any, tmp_path: Path) -> None:
    """What a command may not do when it is ended, or when its disk is full."""
    forks, kills = campaign("forks"), campaign("kills")

    def ends(call: Any) -> list[str]:
        said = tmp_path / "said"
        process = forks.start(call, tmp_path, said)
        status, hung = forks.wait(process, 3.0)
        return list(kills.wrong_end(forks.Ended(status, said.read_text(), 0.0, hung), {0, 130}))

    assert ends(lambda: None) == []
    assert ends(lambda: sys.exit(130)) == []
    assert "ends with 2" in ends(lambda: sys.exit(2))[0]
    assert ends(lambda: dict[str, int]()["x"])[0].startswith("ends with 1: KeyError")
    assert ends(lambda: dict[str, int]()["x"])[1].startswith("says more than a line")
    assert ends(lambda: forks.time.sleep(60)) == ["hangs"]
