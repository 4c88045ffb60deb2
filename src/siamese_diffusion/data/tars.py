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

from siamese_diffusion.errors import InputError, printable, refused, system_refusal
from siamese_diffusion.files import read_content

BLOCK = 512
"""Bytes that everything in a tar archive is rounded up to; two empty ones end it."""


class Span(NamedTuple):
    """Where a member's content lies in its archive, in bytes."""

    start: int
    size: int


def is_member(path: Path) -> bool:
    """Whether a path names a member of an archive (which may lack it)."""
    return path.parent.suffix == ".tar" and _is_file(path.parent)


def exists(path: Path) -> bool:
    """Whether there is such a file, or such a member."""
    return path.name in index(path.parent) if is_member(path) else _is_file(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into
        return False


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
        InputError: there is no such file, the system does not give it, or an archive is damaged or lacks the member.
    """
    if is_member(path):
        return BytesIO(read_bytes(path))
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise system_refusal(f"{path}: cannot be read", error) from None


def read_bytes(path: Path) -> bytes:
    """The content of a file, or of a member of an archive; errors as in `open_file`."""
    if not is_member(path):
        return read_content(path)
    shard = path.parent
    span = index(shard).get(path.name)
    if span is None:
        raise InputError(f"{shard}: has no member {path.name}")
    with refused(f"{shard}: cannot be read"), shard.open("rb") as file:
        file.seek(span.start)
        return file.read(span.size)


def index(shard: Path) -> Mapping[str, Span]:
    """The members of an archive by their names, in its order.

    Raises:
        InputError: it is not there, not a tar archive (compressed ones are none), has two members of one name, or its
            end is missing.
    """
    try:
        state = shard.stat()
    except (OSError, ValueError):
        raise InputError(f"{shard}: no such file") from None
    return _index(shard, state.st_size, state.st_mtime_ns)


class Header(tarfile.TarInfo):
    """A header of a plain file: its size is not negative (with one that is, Python before 3.11.14 and 3.13.6 goes in a
    circle), its name is not longer than any, and it has no holes, whose list may be as long as the archive is."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError("a member has a negative size")
        return -(-count // BLOCK) * BLOCK

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in NAMES and self.size > LONGEST:
            raise tarfile.ReadError("a member's name or notes are longer than any")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a member is stored with holes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found

    def _proc_gnusparse_10(self, *arguments: object) -> None:
        raise tarfile.ReadError("a member is stored with holes")


NAMES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
LONGEST = 1 << 20
"""Bytes of a name, or of notes on a member."""


@lru_cache(maxsize=64)  # of a thousand pairs, half a megabyte each
def _index(shard: Path, size: int, changed: int) -> Mapping[str, Span]:
    spans: dict[str, Span] = {}
    end = 0
    with refused(f"{shard}: not a tar archive that can be read"):
        with tarfile.open(shard, "r:", tarinfo=Header) as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if member.issparse():
                    raise InputError(f"{shard}: {printable(member.name)} is stored with holes, which are not read")
                if member.isfile():
                    name = member.name.removeprefix("./")
                    if name in spans:
                        raise InputError(f"{shard}: has two members {printable(name)}")
                    spans[name] = Span(member.offset_data, member.size)
        with shard.open("rb") as file:
            file.seek(end)
            whole = file.read(2 * BLOCK) == bytes(2 * BLOCK)
    if not whole:  # tarfile takes a cut between two members, or rubbish there, for the end
        raise InputError(f"{shard}: the archive is torn, its end is missing")
    return spans
