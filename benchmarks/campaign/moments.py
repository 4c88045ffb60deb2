"""Moments of a command: each time that it opens, renames, makes, removes or syncs a file, or writes to one.

Python tells of most of them (`sys.addaudithook`), whoever asks for them; the rest is patched in.
"""

import builtins
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

EVENTS = frozenset(
    {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "os.symlink"}
)

Moment = Callable[[int, str, str], None]
"""Gets the number of a moment, from 0, what is done, and to which file."""


def at_each(do: Moment, below: Path, reading: bool = False) -> None:
    """From now on `do` is called just before this process changes what lies in a folder; for good.

    Args:
        do: what is done at a moment; what it raises is raised there.
        below: the folder.
        reading: instead, just before it opens a file there for reading.
    """
    counted, inside, root = 0, False, os.fspath(below)

    def note(what: str, path: Any) -> None:
        nonlocal counted, inside
        if inside or not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if not name.startswith(root):
            return
        inside, number, counted = True, counted, counted + 1
        try:
            do(number, what, name)
        finally:
            inside = False

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writing = bool(flags & WRITING) if isinstance(flags, int) else any(letter in str(mode) for letter in "wax+")
            if writing != reading:
                note("open", path)
        elif event in EVENTS and not reading:
            note(event.removeprefix("os."), arguments[0])

    sys.addaudithook(hear)
    if not reading:
        _patch_syncs(note)


def _patch_syncs(note: Callable[[str, Any], None]) -> None:
    """`os.fsync` tells nobody, and neither does what is written to a file that is open."""
    plain_sync, plain_open = os.fsync, builtins.open

    def fsync(fd: Any) -> None:
        descriptor = fd if isinstance(fd, int) else fd.fileno()
        note("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
        plain_sync(fd)

    def opening(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        opened = plain_open(file, mode, *arguments, **named)
        if isinstance(file, str | bytes | os.PathLike) and any(letter in mode for letter in "wax"):
            note("opened", file)  # it is there now, and empty
        return opened

    for module, name, patched in ((os, "fsync", fsync), (builtins, "open", opening), (io, "open", opening)):
        setattr(module, name, patched)
