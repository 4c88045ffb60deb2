"""Unpack an archive from outside: only plain files, only inside the target, only as much as was agreed.

ZIP and tar, also packed by gzip, bzip2 or xz, are read here. Anything else (CVC-ClinicDB comes as RAR) is turned into a
tar stream by `bsdtar`, which writes nothing itself, so that the same rules hold for every kind of archive.
"""

import bz2
import errno
import gzip
import lzma
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from siamese_diffusion.data.tars import Header
from siamese_diffusion.errors import InputError, brief, printable, reason, refused
from siamese_diffusion.progress import bar

_BLOCK = 1 << 20
_RATIO = 200
"""An archive that grows more than this is a bomb: images are compressed already."""
_SMALL = 64 << 20
"""Total size in bytes below which the growth does not matter."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most: bytes when unpacked, and files."""

    size: int
    files: int = 100_000


def unpack(archive: Path, folder: Path, limits: Limits, shown: str | None = None) -> list[Path]:
    """Unpack the plain files of `archive` into `folder` and list them; the progress bar calls it `shown`.

    Raises:
        InputError: the archive is damaged, encrypted or of an unknown kind; a member would land outside `folder`, is a
            link or a device, or has the name of another; or there is more than `limits`.
    """
    if not archive.is_file():
        raise InputError(f"{archive}: no such file")
    guard = _Guard(archive, folder, limits, shown or archive.name)
    with _reading(archive):
        zipped, head = zipfile.is_zipfile(archive), _head(archive)
    if zipped:
        _unpack_zip(archive, guard)
    elif head.lstrip()[:1] == b"<":
        raise InputError(f"{archive}: is a web page, not an archive; the provider answered with a form or a notice")
    elif head[:4] == b"PK\x03\x04":
        raise InputError(f"{archive}: is a ZIP file whose end is missing; fetch it again")
    elif (opener := tar_opener(head)) is not None:
        _unpack_packed_tar(archive, opener, guard)
    else:
        _unpack_stream(archive, guard)
    return guard.files


def tar_opener(head: bytes) -> Callable[..., Any] | None:
    """What opens a tar archive that begins with these bytes, 512 of them; None for other files."""
    if head[257:262] == b"ustar":
        return open
    packed: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
    return next((opener for magic, opener in packed.items() if head.startswith(magic)), None)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """What is raised while an archive is read is said of it; what is written is not to be inside."""
    try:
        with refused(f"{archive}: the archive is damaged"):
            yield
    except MemoryError:  # packed with a dictionary that nobody needs
        raise InputError(f"{archive}: the archive is damaged, or takes more memory to unpack than there is") from None


@dataclass
class _Guard:
    """Decides for every member where it goes, and counts."""

    archive: Path
    folder: Path
    limits: Limits
    shown: str
    files: list[Path] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    announced: int = 0

    def admit(self, name: str, size: int, link: bool, special: bool) -> Path | None:
        """Where a member of `size` bytes goes; None for what operating systems leave in archives."""
        parts = self.parts(name)
        if size < 0:
            raise InputError(f"{self.archive}: the archive is damaged ({name} has a negative size)")
        if link or special:
            kind = "link" if link else "special file"
            raise InputError(f"{self.archive}: {name} is a {kind}; only plain files are unpacked, and nothing was kept")
        self.announced += size
        if self.announced > self.limits.size or len(self.seen) >= self.limits.files:
            raise InputError(
                f"{self.archive}: holds more than {self.limits.size >> 20} MiB or {self.limits.files} files when "
                "unpacked, far more than the data set; nothing was kept"
            )
        if self.announced > max(_SMALL, _RATIO * self.archive.stat().st_size):
            raise InputError(f"{self.archive}: grows more than {_RATIO} times when unpacked; nothing was kept")
        key = "/".join(parts).casefold()
        if key in self.seen:
            raise InputError(f"{self.archive}: holds {name} twice")
        self.seen.add(key)
        if "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] in (".DS_Store", "Thumbs.db"):
            return None
        return self.folder.joinpath(*parts)

    def parts(self, name: str) -> tuple[str, ...]:
        path = PurePosixPath(name.replace("\\", "/"))
        outside = path.is_absolute() or not path.parts or ".." in path.parts or ":" in name
        if outside or any(ord(letter) < 32 for letter in name):
            raise InputError(f"{self.archive}: {brief(repr(name))} would land outside the folder; nothing was kept")
        if printable(name) != name:
            raise InputError(
                f"{self.archive}: the name {printable(name)} is not UTF-8; unpack it yourself and rename it"
            )
        return path.parts

    def write(self, source: IO[bytes], target: Path, size: int) -> None:
        left = size
        with self._create(target) as file:
            while block := self._next(source, min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    break
                file.write(block)
        if left:
            raise InputError(f"{self.archive}: {target.name} is not as long as the archive says")
        self.files.append(target)

    def _create(self, target: Path) -> IO[bytes]:
        """A file that is not there yet. A full disk stays what it is; a name that no file can have is the archive's."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return target.open("xb")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            name = brief(target.relative_to(self.folder).as_posix())
            raise InputError(f"{self.archive}: {name} cannot be a file here ({error.strerror})") from None

    def _next(self, source: IO[bytes], size: int) -> bytes:
        with _reading(self.archive):
            return source.read(size)


def _unpack_zip(archive: Path, guard: _Guard) -> None:
    with ExitStack() as stack:
        with _reading(archive):
            file = stack.enter_context(zipfile.ZipFile(archive))
        chosen = []
        for member in file.infolist():
            if member.is_dir():
                guard.parts(member.filename)
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            special = kind not in (0, stat.S_IFREG, stat.S_IFLNK)
            if member.flag_bits & 1:
                raise InputError(f"{archive}: is encrypted; unpack it yourself and give the folder with --archive")
            target = guard.admit(member.filename, member.file_size, kind == stat.S_IFLNK, special)
            if target is not None:
                chosen.append((member, target))
        with bar() as progress:
            for member, target in progress.track(chosen, description=f"unpacking {guard.shown}"):
                with ExitStack() as opened:
                    with _reading(archive):
                        source = opened.enter_context(file.open(member))
                    guard.write(source, target, member.file_size)


def _unpack_packed_tar(archive: Path, opener: Callable[..., Any], guard: _Guard) -> None:
    with ExitStack() as stack:
        with _reading(archive):
            file = stack.enter_context(opener(archive, "rb"))
        _unpack_tar(_Bounded(file, guard), guard)
    if not guard.files:
        raise InputError(f"{archive}: holds no files")


class _Bounded:
    """A stream that ends a bomb before it has grown: what is unpacked is at most what a guard lets in, and headers."""

    def __init__(self, file: IO[bytes], guard: _Guard) -> None:
        self.file, self.archive = file, guard.archive
        packed = guard.archive.stat().st_size
        self.left = min(guard.limits.size + _SMALL, max(_SMALL, _RATIO * packed)) + _SMALL

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise InputError(f"{self.archive}: grows more than {_RATIO} times when unpacked; nothing was kept")
        return content


def _unpack_stream(archive: Path, guard: _Guard) -> None:
    with tempfile.TemporaryFile() as errors:
        command = [find_bsdtar(archive), "-cf", "-", "--format", "pax", f"@{archive.resolve()}"]
        why = "it holds no files"
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            try:
                assert process.stdout is not None
                _unpack_tar(process.stdout, guard)
                failed = process.wait() != 0
            except InputError as error:
                if not isinstance(error.__cause__, tarfile.ReadError):
                    process.kill()
                    raise
                failed, why = True, reason(error.__cause__)  # what bsdtar says is clearer
            except BaseException:
                process.kill()
                raise
        if failed or not guard.files:
            errors.seek(0)
            said = errors.read(2000).decode(errors="replace").strip().splitlines() or [why]
            raise InputError(f"{archive}: cannot be unpacked as ZIP or tar, nor by bsdtar ({said[0]})")


def _unpack_tar(stream: Any, guard: _Guard) -> None:
    with ExitStack() as stack:
        with _reading(guard.archive):
            file = stack.enter_context(tarfile.open(fileobj=stream, mode="r|", tarinfo=Header))
        progress = stack.enter_context(bar())
        task = progress.add_task(f"unpacking {guard.shown}", total=None)
        while True:
            with _reading(guard.archive):
                member = file.next()
            if member is None:
                return
            if member.isdir():
                continue
            target = guard.admit(member.name, member.size, member.issym() or member.islnk(), not member.isreg())
            with _reading(guard.archive):
                source = file.extractfile(member)
            if target is not None and source is not None:
                guard.write(source, target, member.size)
                progress.advance(task)


def find_bsdtar(archive: Path) -> str:
    """The program that turns `archive`, which is not a ZIP file, into a stream.

    Raises:
        InputError: it is not installed.
    """
    for name in ("bsdtar", "tar"):  # on macOS and Windows `tar` is bsdtar
        path = shutil.which(name)
        if path and b"bsdtar" in subprocess.run([path, "--version"], capture_output=True, check=False).stdout:
            return path
    raise InputError(
        f"{archive}: is neither ZIP nor tar, and other archives (RAR) need the program bsdtar (Debian and Ubuntu: "
        "package libarchive-tools); or unpack it yourself and give the folder with --archive"
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)
