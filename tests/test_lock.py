"""One living process at a time writes a folder."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from siamese_diffusion.errors import InputError
from siamese_diffusion.lock import NAME, hold

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no lock there")


def holder(folder: Path, inside: str = "time.sleep(60)") -> "subprocess.Popen[str]":
    """A process that holds the folder and has said so."""
    script = f"""
        import os, sys, time
        from pathlib import Path
        from siamese_diffusion.lock import hold
        with hold(Path({str(folder)!r})):
            print("held", flush=True)
            {inside}
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path, number: signal.Signals) -> None:
    with holder(tmp_path / "run") as process:
        told = rf"--out .*run: another command is writing there \(process {process.pid}\)"
        with pytest.raises(InputError, match=told), hold(tmp_path / "run"):
            raise AssertionError("two at once")
        with hold(tmp_path / "another"):
            pass
        process.send_signal(number)
        process.wait(60)
        with hold(tmp_path / "run"):
            pass


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    """As the processes that make batches do for seconds. The child says itself that it runs: until then it has it."""
    with holder(tmp_path, "os.fork() or print(os.getpid(), flush=True); time.sleep(60)") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait(60)
        try:
            os.kill(child, 0)
            with hold(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_it_ends_with_the_block_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    for _ in range(2):
        with hold(out):
            assert (out / NAME).exists()
            with pytest.raises(InputError, match="another command"), hold(out):
                pass
            assert (out / NAME).read_text() == f"{os.getpid()}\n"
        assert list(tmp_path.iterdir()) == []
    with hold(out):
        (out / "config.yaml").write_text("mine")
    assert [path.name for path in out.iterdir()] == ["config.yaml"]
    with pytest.raises(KeyError), hold(out):
        raise KeyError
    with hold(out):
        pass


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file"), hold(tmp_path / "run"):
        pass


def test_a_folder_that_is_replaced_as_a_whole_is_released_too(tmp_path: Path) -> None:
    with hold(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "old")
        (tmp_path / "run").mkdir()
    with hold(tmp_path / "run"):
        pass


def test_the_first_of_several_processes_holds_it_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with hold(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(InputError), hold(tmp_path):
            pass
