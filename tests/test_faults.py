"""The campaign of `benchmarks/faults.py`: a short one finds nothing, and what is wrong is found."""

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
    monkeypatch.setattr(mutate, "PATIENCE", 3.0)
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
