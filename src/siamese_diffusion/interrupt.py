"""Being asked to stop, by Ctrl-C (SIGINT) or by SIGTERM: no request is lost, and none is taken for anything else.

Design note: both blocks below end with KeyboardInterrupt where one was asked for, whatever else was raised meanwhile or
nothing was: libraries that call Python from C++ turn it into errors of their own, of which a good file would be blamed.
In a thread that is not the main one neither does anything: Python delivers signals to the main thread alone.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from siamese_diffusion import progress

STOPS = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], object]


class Request:
    """True once the process was asked to stop."""

    asked = False
    at_once = False

    def __bool__(self) -> bool:
        return self.asked


@contextmanager
def after_the_step() -> Iterator[Request]:
    """Let the step in hand finish, so that the state saved is a whole one; a second request stops at once.

    Raises:
        KeyboardInterrupt: when the block ends, if a request was made in it.
    """
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        if request.asked:
            request.at_once = True
            raise KeyboardInterrupt
        request.asked = True
        why, again = ("", "press Ctrl-C again") if number == signal.SIGINT else ("SIGTERM: ", "send it again")
        progress.notify(f"{why}stopping after this step; {again} to stop at once")

    with _handling(dict.fromkeys(STOPS, note)):
        try:
            yield request
        except Exception:
            if request.at_once:
                raise KeyboardInterrupt from None
            raise
    if request:
        raise KeyboardInterrupt


@contextmanager
def undisguised() -> Iterator[None]:
    """Stop at once, as always, but with nothing else than KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: it was raised in the block, and then caught or replaced there.
    """
    raised = False

    def passing_on(handler: Handler) -> Handler:
        def note(number: int, frame: FrameType | None) -> None:
            nonlocal raised
            try:
                handler(number, frame)
            except KeyboardInterrupt:
                raised = True
                raise

        return note

    before = {number: signal.getsignal(number) for number in STOPS}
    with _handling({number: passing_on(handler) for number, handler in before.items() if callable(handler)}):
        try:
            yield
        except Exception:
            if raised:
                raise KeyboardInterrupt from None
            raise
        except SystemExit as end:
            if raised and not end.code:  # as if all had gone well
                raise KeyboardInterrupt from None
            raise
    if raised:
        raise KeyboardInterrupt


@contextmanager
def _handling(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    try:
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # not the main thread: whoever runs this thread handles signals
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
