"""How a function becomes a command, and how a command ends."""

import errno
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from typer import Argument, Option, Typer
from typer.testing import CliRunner

from siamese_diffusion.console import Json, Shown, command, run
from siamese_diffusion.errors import InputError

NAN = float("nan")
INFINITE = '{"a": null, "b": [null, 2.0]}'


def app_of(function: Callable[..., Any], **options: Any) -> Typer:
    app = Typer(pretty_exceptions_enable=False)
    command(app, **options)(function)
    return app


def count(
    source: Annotated[Path, Argument(help="What is counted.")],
    times: Annotated[int, Option(help="How often.")] = 2,
    names: Annotated[list[str] | None, Option("--name")] = None,
    exactly: Annotated[bool, Option("--exactly")] = False,
) -> dict[str, Any]:
    """Count things."""
    return {"source": str(source), "times": times, "names": names, "exactly": exactly, "share": 1 / 3}


class TestCommand:
    def test_the_signature_is_the_command_line(self) -> None:
        result = CliRunner().invoke(app_of(count), ["here", "--times", "5", "--name", "a", "--name", "b", "--json"])
        assert json.loads(result.stdout) == count(Path("here"), 5, ["a", "b"])
        result = CliRunner().invoke(app_of(count), ["here", "--exactly"])
        assert result.stdout == "source: here\ntimes: 2\nnames: None\nexactly: True\nshare: 0.3333\n"
        assert CliRunner().invoke(app_of(count), []).exit_code == 2

    def test_typer_reads_the_functions_own_parameters_and_json(self) -> None:
        app = app_of(count)
        callback = app.registered_commands[0].callback
        assert callback is not None
        *own, added = inspect.signature(callback).parameters.values()
        assert own == list(inspect.signature(count).parameters.values())
        assert (added.name, added.annotation, added.default) == ("as_json", Json, False)
        assert (callback.__name__, callback.__doc__) == ("count", "Count things.")

    def test_the_function_stays_what_it_is(self) -> None:
        assert command(Typer())(count) is count

    def test_a_name_of_its_own(self) -> None:
        app = app_of(count, name="import")
        command(app)(lambda: {})
        assert CliRunner().invoke(app, ["import", "here"]).exit_code == 0
        assert CliRunner().invoke(app, ["count", "here"]).exit_code == 2

    @pytest.mark.parametrize(
        ("resumable", "goes_on", "line"),
        [
            (True, False, "interrupted; the same command with --resume goes on\n"),
            (False, True, "interrupted; the same command goes on\n"),
            (False, False, "interrupted\n"),
        ],
    )
    def test_an_interruption_says_what_goes_on(self, resumable: bool, goes_on: bool, line: str) -> None:
        def stopped() -> None:
            raise KeyboardInterrupt

        def stopped_with(resume: Annotated[bool, Option("--resume")] = False) -> None:
            raise KeyboardInterrupt

        result = CliRunner().invoke(app_of(stopped_with if resumable else stopped, goes_on=goes_on), [])
        assert (result.exit_code, result.stdout, result.stderr) == (130, "", line)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (InputError("--data x:\n  no such folder"), "--data x: no such folder"),
            (MemoryError(), "out of memory: lower data.resolution or the batch_size of this command"),
            (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "/root/x: Permission denied"),
            (OSError(errno.ENOSPC, "No space left on device"), "--out: No space left on device"),
            (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),  # of a process that the command started
            (
                RuntimeError("CUDA out of memory. Tried to allocate"),
                "out of memory on the device: set train.micro_batch (or sample.batch_size) lower",
            ),
        ],
    )
    def test_one_line_and_status_2(self, error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            run(fail, as_json=False)
        assert ended.value.code == 2
        assert capsys.readouterr() == ("", f"error: {line}\n")

    def test_what_is_our_own_fault_is_not_hidden(self) -> None:
        def fail() -> None:
            raise RuntimeError("a size is wrong")

        with pytest.raises(RuntimeError, match="a size is wrong"):
            run(fail, as_json=False)


class TestResult:
    @pytest.mark.parametrize(
        ("result", "text", "as_json"),
        [
            (
                {"a": 0.12345, "b": {"c": 1.0, "d": "x"}},
                "a: 0.1235\nb: c 1.0, d x\n",
                '{"a": 0.12345, "b": {"c": 1.0, "d": "x"}}',
            ),
            ({}, "", "{}"),
            (Shown([1, 2], "two\nnumbers"), "two\nnumbers\n", "[1, 2]"),
            (Shown({"a": 1}, ""), "", '{"a": 1}'),
            ({"a": NAN, "b": [-float("inf"), 2.0]}, "a: nan\nb: [-inf, 2.0]\n", INFINITE),
            (Shown({"a": NAN, "b": [NAN, 2.0]}, "no figure"), "no figure\n", INFINITE),
        ],
    )
    def test_text_and_json(self, result: Any, text: str, as_json: str, capsys: pytest.CaptureFixture[str]) -> None:
        run(lambda: result, as_json=False)
        assert capsys.readouterr() == (text, "")
        run(lambda: result, as_json=True)
        assert capsys.readouterr() == (as_json + "\n", "")


class TestStandardOutput:
    """A reader that has gone, or a full disk: when the result is printed, or when what is left of it is written out."""

    @staticmethod
    def printing(lines: int, output: int, buffered: bool) -> "subprocess.Popen[str]":
        """A process whose command has a result of so many lines."""
        code = f"from siamese_diffusion.console import run; run(lambda: dict.fromkeys(range({lines})), as_json=False)"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        command = [sys.executable, *([] if buffered else ["-u"]), "-c", code]
        return subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment)

    @pytest.mark.parametrize("buffered", [True, False])
    @pytest.mark.parametrize("lines", [1, 100_000])
    def test_a_reader_that_has_read_enough_ends_it_quietly(self, lines: int, buffered: bool) -> None:
        with self.printing(lines, subprocess.PIPE, buffered) as process:
            assert process.stdout is not None
            process.stdout.close()
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (141, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    @pytest.mark.parametrize("buffered", [True, False])
    def test_a_full_disk_is_one_line(self, buffered: bool) -> None:
        with Path("/dev/full").open("w") as full, self.printing(1, full.fileno(), buffered) as process:
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (2, "error: standard output: No space left on device\n")


def test_a_thread_that_cannot_write_says_nothing_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its owner is told at the next write, in the one line there is."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def within(failure: Exception) -> dict[str, Any]:
        def fail() -> None:
            raise failure

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        return {}

    run(lambda: within(OSError(errno.ENOSPC, "No space left on device")), False)
    assert "Traceback" not in capsys.readouterr().err
    run(lambda: within(ValueError("ours")), False)
    assert "ValueError: ours" in capsys.readouterr().err
