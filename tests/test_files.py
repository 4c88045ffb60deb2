"""Whole files or none."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from siamese_diffusion.durable import clear_all, restore
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import to_json, whole_folder, write_json, write_jsonl, write_text, write_whole


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "state.json"
    write_text(path, "before")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(InputError, match=r"state.json: no space left"):
        write_whole(path, fail)
    with pytest.raises(InputError, match=r"step-1: no space left"), whole_folder(tmp_path / "step-1"):
        raise error
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), whole_folder(tmp_path / "step-1"):
        raise RuntimeError("something else")


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def fill(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("swaps", [True, False])
def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path: Path, swaps: bool) -> None:
    """Every call of the system that names or removes something is the last one, in turn."""
    script = f"""
        import os, sys
        from pathlib import Path
        from siamese_diffusion import durable
        from siamese_diffusion.files import whole_folder
        if not {swaps}:
            durable._exchange = lambda one, other: False
        left = int(sys.argv[1])
        def kill(event, arguments):
            global left
            if event in ("os.rename", "os.remove", "os.rmdir", "ctypes.dlopen", "shutil.rmtree"):
                left -= 1
                if left < 0:
                    os._exit(9)
        with whole_folder(Path(sys.argv[2])) as folder:
            for name in ("a", "b"):
                (folder / name).write_text("new")
            sys.addaudithook(kill)
    """
    codes = []
    for moment in range(20):
        out = tmp_path / str(moment) / "pipeline"
        fill(out, "old")
        command = [sys.executable, "-c", textwrap.dedent(script), str(moment), str(out)]
        codes.append(subprocess.run(command, check=False).returncode)
        restore(out)
        assert content(out) in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"}), moment
        clear_all(out.parent)
        assert [path.name for path in out.parent.iterdir()] == ["pipeline"], moment
        if codes[-1] == 0:
            break
    assert codes[0] == 9
    assert codes[-1] == 0
    assert len(codes) > 2


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with whole_folder(tmp_path / "pipeline") as folder:
            fill(folder, text)
        assert content(tmp_path / "pipeline") == {"a": text, "b": text}
    with pytest.raises(KeyError), whole_folder(tmp_path / "pipeline") as folder:
        raise KeyError
    assert content(tmp_path / "pipeline") == {"a": "new", "b": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_what_dead_processes_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    dead, living = dead_process(), os.getppid()
    for pid in (dead, living):
        fill(tmp_path / "checkpoints" / f".{pid}.step-000003", "half")
        fill(tmp_path / f".{pid}.pipeline", "half")
        (tmp_path / f".{pid}.config.yaml").write_text("half")
    (tmp_path / ".keep").write_text("mine")
    (tmp_path / "config.yaml").write_text("whole")
    with whole_folder(tmp_path / "pipeline") as folder:
        fill(folder, "new")
    assert not (tmp_path / f".{dead}.pipeline").exists()
    assert (tmp_path / f".{dead}.config.yaml").exists()
    clear_all(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if str(dead) in path.name}
    assert left == set()
    kept = {f".{living}.config.yaml", f".{living}.pipeline", ".keep", "config.yaml", "pipeline", "checkpoints"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "checkpoints" / f".{living}.step-000003" / "a").exists()


def test_a_folder_within_one_that_was_being_written_is_cleared_too(tmp_path: Path) -> None:
    """`export` writes a pipeline into a folder that is not in its place yet, and so beside it."""
    dead, living = dead_process(), os.getppid()
    for name in (f".{dead}..{dead}.out", f".{dead}..{dead}.other", f".{living}..{dead}.out", f".{dead}..{living}.out"):
        fill(tmp_path / name, "half")
    with whole_folder(tmp_path / "out") as folder, whole_folder(folder) as inner:
        fill(inner, "new")
    kept = {f".{dead}..{dead}.other", f".{living}..{dead}.out", f".{dead}..{living}.out", "out"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_weights_have_the_mode_of_other_files(tmp_path: Path, umask: int) -> None:
    def write(path: Path) -> None:
        save_file({"x": torch.zeros(2)}, path)

    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "")
        write_whole(tmp_path / "x.safetensors", write)
        with whole_folder(tmp_path / "folder") as folder:
            write(folder / "x.safetensors")
    finally:
        os.umask(before)
    for path in (tmp_path / "text", tmp_path / "x.safetensors", tmp_path / "folder/x.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_what_counts_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with whole_folder(tmp_path / "pipeline") as folder:
        fill(folder, "new")
        fill(folder / "deep", "new")
        assert synced == []
    everything = list((tmp_path / "pipeline").rglob("*"))
    assert len(everything) == 5
    assert {path.stat().st_ino for path in [*everything, tmp_path / "pipeline", tmp_path]} == set(synced)
    synced.clear()
    write_text(tmp_path / "pairs.jsonl", "x")
    assert synced == [(tmp_path / "pairs.jsonl").stat().st_ino, tmp_path.stat().st_ino]


def test_a_figure_that_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    value: dict[str, Any] = {"a": nan, "b": [1.5, (-inf, {"c": np.float64(inf)})], "d": None, "e": "NaN", "f": True}
    expected = {"a": None, "b": [1.5, [None, {"c": None}]], "d": None, "e": "NaN", "f": True}
    write_json(tmp_path / "one.json", value)
    write_jsonl(tmp_path / "rows.jsonl", [value, {"x": 1.0}])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    for text in (to_json(value), (tmp_path / "one.json").read_text(), lines[0]):
        assert json.loads(text, parse_constant=refuse) == expected
    assert json.loads(lines[1]) == {"x": 1.0}
    assert np.isnan(value["a"])  # only what is written changes
