"""One living process at a time writes a folder.

Design note: the lock is the system's, on a hidden file in the folder. It ends with the process, however that ends, so a
killed one leaves nothing to clean up but an empty file. Processes that are forked (those that make batches) close their
copy at once: they may outlive a killed parent by seconds, and must not hold its lock as long.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from siamese_diffusion.errors import InputError

NAME = ".run.lock"

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Be the only process that writes `out` while the block runs; the folder need not exist.

    Of several processes of one run (ranks) the first holds the lock for all. Where the folder cannot be written, or its
    file system knows no locks, nothing is held. What was not there before and is empty after is removed.

    Args:
        out: the folder that a command writes, its `--out`.

    Raises:
        InputError: another process holds it, or so does this one already; or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    if os.environ.get("RANK", "0") != "0" or sys.platform == "win32":  # there, one command at a time is up to the user
        yield
        return
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        descriptor = _lock(out)
        try:
            yield
        finally:
            if descriptor is not None:
                _release(out, descriptor)
    finally:
        with suppress(OSError):  # not empty, or gone
            for folder in made:
                folder.rmdir()


def _lock(out: Path) -> int | None:
    """The descriptor of the locked file; None where there can be no lock."""
    import fcntl

    path = out / NAME
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):  # whoever writes there will be told so
                return None
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise InputError(
                f"--out {out}: another command is writing there (process {holder}); wait for its end or name another "
                f"folder"
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        if _is(path, descriptor):
            break
        os.close(descriptor)  # its holder has just ended and removed it
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    _held.add(descriptor)
    return descriptor


def writer_of(out: Path) -> int | None:
    """The process that holds a folder; None where none does, or where the system knows no such locks.

    Nothing is written, and the folder is not held by asking but for an instant.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(out / NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.read(descriptor, 20).decode(errors="replace").strip()
        return int(said) if said.isdecimal() else 0
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _release(out: Path, descriptor: int) -> None:
    path = out / NAME
    if _is(path, descriptor):  # the folder may have been replaced as a whole
        path.unlink()
    _held.discard(descriptor)
    os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
