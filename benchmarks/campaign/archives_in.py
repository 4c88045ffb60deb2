"""Downloads: archives, what a server answers, and what a data set's folder notes."""

import contextlib
import shutil
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.entrance import Entrance
from campaign.pairs_in import make_pairs
from siamese_diffusion.data.fetch import get, transfer, unpack
from siamese_diffusion.data.fetch.catalogue import RELEASES
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_json

LIMITS = unpack.Limits(1 << 20, 100)


def make_archives(folder: Path) -> None:
    make_pairs(folder / "pairs")
    files = sorted(path for path in (folder / "pairs").rglob("*") if path.is_file())
    with (
        zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed,
        tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as row,
        tarfile.open(folder / "a.tgz", "w:gz") as small,
    ):
        for path in files:
            packed.write(path, path.relative_to(folder))
            for archive in (row, small):
                archive.add(path, str(path.relative_to(folder)))
    shutil.rmtree(folder / "pairs")


def unpack_one(folder: Path, damaged: Path) -> Any:
    return unpack.unpack(damaged, folder / "out", LIMITS), folder


def right_files(found: Any) -> bool:
    files, folder = found
    total = sum(path.stat().st_size for path in files)
    inside = all(path.resolve().is_relative_to(folder / "out") and not path.is_symlink() for path in files)
    return (
        total <= LIMITS.size
        and inside
        and {path.name for path in folder.iterdir()} <= {"a.zip", "a.tar", "a.tgz", "out"}
    )


def make_download(folder: Path) -> None:
    """A download that was cut, and what the server answers when it is taken up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.zip.part").write_bytes(b"x" * 50)
    write_json(folder / "a.zip.part.json", {"address": "ADDRESS", "version": '"1"', "size": 200})
    lines = [
        *(b"HTTP/1.1 206 Partial Content", b"Content-Type: application/zip", b'ETag: "1"'),
        *(
            b"Content-Range: bytes 50-199/200",
            b"Content-Length: 150",
            b"Retry-After: 0",
            b"Location: /b",
            b"",
            b"x" * 150,
        ),
    ]
    (folder / "answer").write_bytes(b"\r\n".join(lines))


def fetch(folder: Path, damaged: Path) -> Any:
    """Take the download up, from a server that answers with the same bytes whatever it is asked."""
    with answering((folder / "answer").read_bytes()) as address:
        note = folder / "a.zip.part.json"
        note.write_bytes(note.read_bytes().replace(b"ADDRESS", address.encode()))
        pause, transfer.PAUSE = transfer.PAUSE, 0.0
        tries, transfer.TRIES = transfer.TRIES, 2
        try:
            transfer.transfer(address, folder / "a.zip.part")
        except transfer.GiveUpError as error:
            raise InputError(str(error)) from None  # as `get` tells it
        finally:
            transfer.PAUSE, transfer.TRIES = pause, tries


@contextlib.contextmanager
def answering(content: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(1)
                        with contextlib.suppress(OSError):
                            connection.recv(1 << 16)
                            connection.sendall(content)
                            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/a"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def make_source(folder: Path) -> None:
    name = next(iter(RELEASES))
    write_json(
        folder / "source.json",
        {"name": name, "out": "x", "pairs": 4, "splits": {}, "files": [], "licence": "x", "page": "x"},
    )


def read_source(folder: Path, damaged: Path) -> Any:
    return get.get_data(next(iter(RELEASES)), folder, accept_licence=True)


ENTRANCES = [
    Entrance("zip", make_archives, ("a.zip",), unpack_one, right_files, 25),
    Entrance("tar", make_archives, ("a.tar",), unpack_one, right_files, 15),
    Entrance("tar.gz", make_archives, ("a.tgz",), unpack_one, right_files, 10),
    Entrance("download", make_download, ("a.zip.part.json", "answer"), fetch, weight=8),
    Entrance("a data set's folder", make_source, ("source.json",), read_source, weight=5),
]
