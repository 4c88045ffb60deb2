"""Files that are whole or absent, and small readers that return what a file should hold or refuse it in one line.

Everything is written beside its final name and renamed into place. Everything that is read as text comes through here
(YAML through `plain_yaml` besides), and nothing but a value or an `InputError` comes out, whatever the file holds.
"""

import csv
import errno
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from siamese_diffusion.durable import clear, put_in_place, share, sync, sync_tree, unfinished
from siamese_diffusion.errors import InputError, brief, reason, system_refusal

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Kind = TypeVar("Kind")

DEEPEST = 64
"""Levels of lists and mappings in a file; what walks through them later has a stack that ends."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

SAFETENSORS = ".safetensors"


def write_whole(path: Path, write: Callable[[Path], object], durable: bool = False) -> None:
    """Call `write` with a temporary path in the same folder, then rename it to `path`; see `whole_file`."""
    with whole_file(path, durable) as temporary:
        write(temporary)


@contextmanager
def whole_file(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes `path` when the block ends.

    The temporary name keeps the suffix of `path`, since many writers choose their format by it.

    Args:
        path: the file.
        durable: it is on the disk before it has its name, and its name before this returns: a few milliseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with full_disk_named(path):
            if path.suffix == SAFETENSORS:
                temporary.touch()
                mode = temporary.stat().st_mode
            yield temporary
            if path.suffix == SAFETENSORS:
                share(temporary, mode)
            if durable:
                sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Be the only process in such a block for `folder`; the others wait, and then find what the first one wrote.

    The system drops the lock with the process, however that ends.
    """
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    with suppress(OSError, NotImplementedError):
        lock.acquire()  # where there are no locks, several processes do the same work and the last one's file stays
    try:
        yield
    finally:
        lock.release()


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Name `path` when the disk is full; the libraries that write report that in their own ways, or as anything
    else."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error)
        if full or shutil.disk_usage(path.parent).free < 1 << 16:
            raise InputError(f"{path}: no space left on the disk; free some and run the same command again") from error
        raise


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), durable=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, to_json(value, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON, which has no word for a figure that is not finite: it becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends, replacing what was there.

    All of it is on the disk before it has its name. What killed calls left of the same folder is cleared first.
    """
    temporary = unfinished(path)
    clear(path.parent, path.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with full_disk_named(path):
            yield temporary
            for weights in temporary.rglob(f"*{SAFETENSORS}"):
                share(weights, temporary.stat().st_mode)
            sync_tree(temporary)
        put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_text(path: Path) -> str:
    """A file's text: UTF-8, with or without a byte order mark; line ends are left as they are.

    Raises:
        InputError: the file is missing, cannot be read or is not UTF-8.
    """
    return decode(read_content(path), str(path))


def read_content(path: Path) -> bytes:
    """A file's bytes; errors as in `read_text`."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not a file") from None
    except OSError as error:
        raise system_refusal(f"{path}: cannot be read", error) from None
    except ValueError:  # a null character in the path
        raise InputError(f"{str(path)!r}: no such file") from None


def decode(content: bytes, what: str) -> str:
    """`content` as text; `what` begins the line of the `InputError` where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: not UTF-8 text ({error.reason} at byte {error.start})") from None


@overload
def read_json(path: Path) -> Any: ...
@overload
def read_json(path: Path, kind: type[Kind]) -> Kind: ...
def read_json(path: Path, kind: Any = None) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: what it must hold: a `TypedDict`, `dict[str, list[str]]`, or whatever else pydantic takes for a type. What
            is returned is the value as it stands in the file, keys that `kind` does not name included.

    Raises:
        InputError: the file is missing or is not JSON, or what it holds is not of that kind.
    """
    value = parse_json(read_text(path), str(path))
    if kind is not None:
        require_kind(value, kind, str(path))
    return value


def parse_json(text: str, what: str) -> Any:
    """The value of a JSON text, whose objects name a key once and whose strings can be written to a file.

    Raises:
        InputError: it is none; the line begins with `what`.
    """
    try:
        return _json(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{what}: not valid JSON ({error})") from None
    except ValueError as error:
        raise InputError(f"{what}: {reason(error)}") from None


@overload
def read_jsonl(path: Path) -> list[dict[str, Any]]: ...
@overload
def read_jsonl(path: Path, kind: type[Kind]) -> list[Kind]: ...
def read_jsonl(path: Path, kind: Any = None) -> list[Any]:
    """Read one JSON object a line, each of `kind` (see `read_json`).

    A last line that a killed writer left without its end is dropped.

    Raises:
        InputError: the file is missing, or a whole line of it is not a JSON object or not of that kind.
    """
    lines = read_text(path).split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _json(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and (error.pos >= len(line) or not line.endswith("}")):
                break
            raise InputError(f"{path}: line {number} is not valid JSON ({error.msg})") from None
        except ValueError as error:
            raise InputError(f"{path}: line {number}: {reason(error)}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is not a JSON object")
        if kind is not None:
            require_kind(row, kind, f"{path}: line {number}")
        rows.append(row)
    return rows


def _json(text: str) -> Any:
    try:
        value = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST:
        _require_flat(value)
    if "\\u" in text and _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a string in it is not Unicode (half of a surrogate pair)") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) > 300:  # what no floating-point number reaches; 10^30 stands in many a tokenizer's file
        raise ValueError(f"the number {brief(digits, 24)} is too large")
    return int(digits)


def _object(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(entries)
    if len(found) < len(entries):
        names = [name for name, _ in entries]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {brief(twice)!r} is there twice")
    return found


def _require_flat(value: Any) -> None:
    """Whatever walks through a value later shall not run out of stack."""
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")


def require_kind(value: Any, kind: Any, what: str) -> None:
    """Refuse a value, as JSON holds it, that is not of `kind` (see `read_json`).

    Raises:
        InputError: the line begins with `what` and names the first entry that is wrong.
    """
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{what}: {brief(where)}{': ' if where else ''}{brief(first['msg'])}") from None


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table with a header that has `columns`, perhaps among others.

    Raises:
        InputError: the file is missing, has no such header, or a row with more or fewer fields than that.
    """
    table = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(table, [])
        lacking = [name for name in columns if header.count(name) != 1]
        if lacking:
            raise InputError(f"{path}: has no column {lacking[0]!r}, or has it twice")
        rows = []
        for row in table:
            if len(row) != len(header):
                raise InputError(f"{path}: line {table.line_num} has {len(row)} fields, its header {len(header)}")
            rows.append(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}: line {table.line_num} is not CSV ({reason(error)})") from None
    return rows


def to_csv(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV; None is an empty field."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue()


def hash_json(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def require_folder(path: Path, setting: str) -> None:
    """Raise `InputError` naming `setting` unless `path` is a folder."""
    if not path.is_dir():
        raise InputError(f"{setting}: {path} is not a folder" + ("" if path.exists() else " (it does not exist)"))
