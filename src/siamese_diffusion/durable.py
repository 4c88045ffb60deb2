"""What makes a file or a folder stay whole when the program, or the machine, stops at any moment.

Design note: what is being written has a hidden name with the writer's process in it, `.PID.NAME`. So the next command
can tell what a dead process left from what a living one is writing.
"""

import os
import re
import shutil
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_UNFINISHED = re.compile(r"\.(\d+)\.(.+)")
_BEFORE = ".before"


def unfinished(path: Path) -> Path:
    """Where this process writes what is to become `path`."""
    return path.with_name(f".{os.getpid()}.{path.name}")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems that cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` of all that is in a folder, and of the folder."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))


def share(weights: Path, mode: int) -> None:
    """Give a file of weights the mode that other new files get: safetensors makes them its owner's alone."""
    if weights.stat().st_mode & 0o777 != mode & 0o666:
        weights.chmod(mode & 0o666)


def put_in_place(new: Path, path: Path) -> None:
    """Make the folder `new` the one at `path`; what was there is at `new` then, or gone. One of the two always
    stands."""
    if not path.exists():
        new.replace(path)
    elif not _exchange(new, path):
        before = unfinished(path).with_name(unfinished(path).name + _BEFORE)
        path.replace(before)
        new.replace(path)
        shutil.rmtree(before)
    sync(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def restore(path: Path) -> None:
    """Put back the folder at `path` if a process died between moving the old one aside and the new one in."""
    if path.exists() or not path.parent.is_dir():
        return
    for entry in path.parent.iterdir():
        found = _UNFINISHED.fullmatch(entry.name)
        if found and found[2] == path.name + _BEFORE and not _alive(int(found[1])):
            entry.replace(path)
            return


def clear(folder: Path, name: str) -> None:
    """Remove what dead processes left unfinished of `folder/name`."""
    restore(folder / name)
    for entry in folder.iterdir() if folder.is_dir() else ():
        writers, becomes = _meant(entry.name)
        if writers and becomes in (name, name + _BEFORE) and not any(map(_alive, writers)):
            _remove(entry)


def _meant(name: str) -> tuple[list[int], str]:
    """Who was writing a file or folder, and what it was to become: the last is of a folder within another one that was
    being written, `.PID..PID.NAME`."""
    writers = []
    while found := _UNFINISHED.fullmatch(name):
        writers.append(int(found[1]))
        name = found[2]
    return writers, name


def clear_all(folder: Path, leave: Collection[str] = ()) -> None:
    """Remove what dead processes left unfinished anywhere in a folder of ours, which this process holds and starts
    on; but for folders with the names in `leave`."""
    for root, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            found = _UNFINISHED.fullmatch(name)
            if found and (int(found[1]) == os.getpid() or not _alive(int(found[1]))):
                if found[2].endswith(_BEFORE):
                    restore(Path(root, found[2].removesuffix(_BEFORE)))
                _remove(Path(root, name))
        folders[:] = [name for name in folders if not _UNFINISHED.fullmatch(name) and name not in leave]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if sys.platform == "win32":  # there, to ask would be to end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
