"""Requests to stop: none is lost, and none is taken for anything else."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import pytest

from siamese_diffusion.errors import InputError
from siamese_diffusion.interrupt import STOPS, after_the_step, undisguised

BLOCKS: list[Callable[[], AbstractContextManager[object]]] = [after_the_step, undisguised]


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in STOPS]


def disguise(number: int, error: Exception | None) -> None:
    """What a library does that calls Python from C++: it is told to stop, and raises something else or nothing."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        if error is not None:
            raise error from None


@pytest.mark.parametrize("number", STOPS)
def test_a_request_is_noted_and_raised_at_the_end(number: signal.Signals) -> None:
    before, seen = handlers(), []

    def work() -> None:
        with after_the_step() as stopping:
            seen.append(bool(stopping))
            signal.raise_signal(number)
            seen.append(bool(stopping))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [False, True]
    assert handlers() == before


def test_a_second_request_stops_at_once_whatever_a_library_makes_of_it() -> None:
    def work() -> None:
        with after_the_step():
            signal.raise_signal(signal.SIGTERM)
            disguise(signal.SIGTERM, RuntimeError("file write failed"))

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize("error", [InputError("torn"), RuntimeError("read failed"), OSError("no"), None])
def test_an_interruption_stays_one(error: Exception | None) -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), undisguised():
        disguise(signal.SIGINT, error)
    assert handlers() == before


def test_a_program_that_ends_well_after_a_request_that_was_swallowed_has_not_ended_well() -> None:
    def work(status: int) -> None:
        with undisguised():
            disguise(signal.SIGINT, None)
            sys.exit(status)

    with pytest.raises(KeyboardInterrupt):
        work(0)
    with pytest.raises(SystemExit, match="130"):
        work(130)


@pytest.mark.parametrize("block", BLOCKS)
def test_without_a_request_nothing_changes(block: Callable[[], AbstractContextManager[object]]) -> None:
    before = handlers()
    with block():
        pass
    with pytest.raises(InputError, match="mine"), block():
        raise InputError("mine")
    with suppress(KeyError), block():
        raise KeyError
    assert handlers() == before


def test_what_the_step_puts_off_is_put_off_within_a_block_that_reads() -> None:
    seen = []

    def work() -> None:
        with after_the_step() as stopping:
            with undisguised():
                signal.raise_signal(signal.SIGINT)
            with suppress(InputError), undisguised():
                raise InputError("a file that is torn")
            seen.append(bool(stopping))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [True]


def test_in_another_thread_they_do_nothing() -> None:
    seen: list[bool] = []

    def work() -> None:
        with after_the_step() as stopping, undisguised():
            seen.append(bool(stopping))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_the_command_line_ends_with_130_whatever_a_library_makes_of_it() -> None:
    script = """
        import signal
        from siamese_diffusion import console
        from siamese_diffusion.errors import InputError
        def call():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise InputError("weights.pt: cannot be read as weights") from None
        console.run(call, False)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert result.returncode == 130
    assert result.stderr == "interrupted\n"
