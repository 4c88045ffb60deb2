"""A value that several threads ask for and one of them makes."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from siamese_diffusion.errors import InputError

T = TypeVar("T")


class Once(Generic[T]):
    """A value that is made when it is first asked for, by one thread; what went wrong then goes wrong again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._found: list[T] = []
        self._error: InputError | None = None

    def __call__(self) -> T:
        with self._lock:
            if self._error is not None:
                raise InputError(str(self._error))
            if not self._found:
                try:
                    self._found.append(self._make())
                except InputError as error:
                    self._error = error
                    raise
            return self._found[0]
