"""Members of tar archives, by paths: `SHARD.tar/a.image.png` is member `a.image.png` of `SHARD.tar`.

Such a path goes wherever a file's does; it is read at its offset and nothing is unpacked. Only what opens files has to
know: `open_file`. An archive's index is made once, of its headers.
"""

import tarfile
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote

from siamese_diffusion.errors import InputError

BLOCK = 512
"""Bytes that everything in a tar archive is rounded up to; two empty ones end it."""


class Span(NamedTuple):
    """Where a member's content lies in its archive, in bytes."""

    start: int
    size: int


def is_member(path: Path) -> bool:
    """Whether a path names a member of an archive (which may lack it)."""
    return path.parent.suffix == ".tar" and path.parent.is_file()


def exists(path: Path) -> bool:
    """Whether there is such a file, or such a member."""
    return path.name in index(path.parent) if is_member(path) else path.is_file()


def base_name(path: Path) -> str:
    """`a` of `a.png` and of the member `SHARD.tar/a.image.png`."""
    return unquote(path.name.partition(".")[0]) if is_member(path) else path.stem


def member_name(name: str, kind: str) -> str:
    """File name in an archive of a pair's `kind`, "image.png" for example.

    WebDataset takes all up to the first dot for the name of the sample, so a dot in `name` is written %2E.
    """
    return f"{name.replace('%', '%25').replace('.', '%2E')}.{kind}"


def open_file(path: Path) -> BinaryIO:
    """Open a file, or a member of an archive, for reading.

    Raises:
        InputError: an archive is damaged or lacks the member.
    """
    return BytesIO(read_bytes(path)) if is_member(path) else path.open("rb")


def read_bytes(path: Path) -> bytes:
    """The content of a file, or of a member of an archive; errors as in `open_file`."""
    if not is_member(path):
        return path.read_bytes()
    shard = path.parent
    span = index(shard).get(path.name)
    if span is None:
        raise InputError(f"{shard}: has no member {path.name}")
    with shard.open("rb") as file:
        file.seek(span.start)
        return file.read(span.size)


def index(shard: Path) -> Mapping[str, Span]:
    """The members of an archive by their names, in its order.

    Raises:
        InputError: it is not there, not a tar archive (compressed ones are none), or its end is missing.
    """
    try:
        state = shard.stat()
    except OSError:
        raise InputError(f"{shard}: no such file") from None
    return _index(shard, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)  # of a thousand pairs, half a megabyte each
def _index(shard: Path, size: int, changed: int) -> Mapping[str, Span]:
    spans, end = {}, 0
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if member.isfile():
                    spans[member.name.removeprefix("./")] = Span(member.offset_data, member.size)
        with shard.open("rb") as file:
            file.seek(end)
            whole = file.read(2 * BLOCK) == bytes(2 * BLOCK)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{shard}: not a tar archive that can be read ({str(error).splitlines()[0]})") from None
    if not whole:  # tarfile takes a cut between two members, or rubbish there, for the end
        raise InputError(f"{shard}: the archive is torn, its end is missing")
    return spans
