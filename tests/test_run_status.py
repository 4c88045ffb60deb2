"""What `status` says of a folder: alive, stopped or finished; nothing in it changes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from siamese_diffusion.errors import InputError
from siamese_diffusion.lock import hold, writer_of
from siamese_diffusion.run_status import _left, render, status


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run(run: Path, tmp_path: Path) -> None:
    before = tree(run)
    found = status(run, tmp_path / "curves.png")
    assert (found["command"], found["state"], found["process"]) == ("train", "finished", None)
    assert found["step"] == found["of"]
    assert found["figures"]["total"] > 0
    assert found["seconds_left"] is None
    assert Image.open(tmp_path / "curves.png").size[0] > 100
    assert tree(run) == before
    assert f"step {found['step']} of {found['of']}" in render(found)


def test_one_that_was_stopped_and_one_that_runs(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints")  # as the log's first line is to be: it has made none yet
    rows = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
    (copy / "log.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert status(copy)["state"] == "stopped"
    now = time.time()
    os.utime(copy / "config.yaml", (now - 100, now - 100))
    os.utime(copy / "log.jsonl", (now, now))
    code = (
        "import sys, time; from pathlib import Path; from siamese_diffusion.lock import hold\n"
        "with hold(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(copy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        found = status(copy)
        assert (found["state"], found["process"]) == ("running", process.pid)
        done, of = found["step"], found["of"]
        assert found["seconds_left"] == pytest.approx(100 / done * (of - done), rel=0.01)
        assert f"running (process {process.pid})" in render(found)
        with pytest.raises(InputError, match="another command is writing there"), hold(copy):
            pass
    finally:
        process.communicate("")
    assert writer_of(copy) is None
    assert status(copy)["state"] == "stopped"


@pytest.mark.parametrize(("checkpoint", "config", "left"), [(50, 200, 50 / 2 * 6), (200, 50, 50 / 2 * 6)])
def test_time_left_is_by_the_steps_since_the_newest_checkpoint(
    checkpoint: int, config: int, left: float, tmp_path: Path
) -> None:
    """Also where the run has gone on from it since: then its settings are newer."""
    newest = tmp_path / "checkpoints" / "step-000002"
    newest.mkdir(parents=True)
    now = time.time()
    for path, age in ((tmp_path / "config.yaml", config), (tmp_path / "log.jsonl", 0)):
        path.write_text("")
        os.utime(path, (now - age, now - age))
    os.utime(newest, (now - checkpoint, now - checkpoint))
    assert _left(tmp_path, newest, 4, 10) == pytest.approx(left, rel=0.01)
    assert _left(tmp_path, newest, 2, 10) is None


def test_runs_inside_are_told_too(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "real").mkdir(parents=True)
    mark = {"program": "siamese-diffusion", "command": "segment --arms"}
    (tmp_path / "out" / "inputs.json").write_text(json.dumps(mark))
    (tmp_path / "out" / "real" / "inputs.json").write_text(json.dumps(mark | {"command": "filter"}))
    found = status(tmp_path / "out")
    assert found["state"] == "stopped"
    assert [(each["command"], each["state"]) for each in found["runs"]] == [("filter", "not running")]
    with pytest.raises(InputError, match="has no log yet"):
        status(tmp_path / "out", tmp_path / "curves.png")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        status(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no folder that a command of this program wrote"):
        status(tmp_path)
