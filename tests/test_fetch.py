"""Downloads from a local server that cuts, refuses and lies, and archives that try to get out of their folder."""

import dataclasses
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from siamese_diffusion.cli import app
from siamese_diffusion.data.check import check
from siamese_diffusion.data.fetch import get, transfer
from siamese_diffusion.data.fetch import unpack as archives
from siamese_diffusion.data.fetch.catalogue import RELEASES, Archive, Release
from siamese_diffusion.data.fetch.get import get_data, list_data
from siamese_diffusion.data.fetch.unpack import Limits, unpack
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.errors import InputError


class Server(ThreadingHTTPServer):
    """Serves `files`; the first answers can be cut short, refused or replaced."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []  # bytes after which an answer is cut, one entry an answer
        self.status: list[int] = []  # statuses of the first answers
        self.page = False  # answer with a web page
        self.ranges = True  # honour range requests
        self.tagged = True  # send an ETag
        self.redirect: dict[str, str] = {}
        self.seen: list[tuple[str, str | None]] = []  # path and Range of every request
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.seen.append((self.path, wanted))
        if server.status:
            self.send_error(server.status.pop(0))
            return
        if self.path in server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect[self.path])
            self.end_headers()
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        body = b"<html>Sign in</html>" if server.page else server.files[self.path]
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") in (tag, None):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "text/html" if server.page else "application/octet-stream")
        self.send_header("Content-Length", str(len(body) - start))
        if server.tagged:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body[start:][: server.cut.pop(0) if server.cut else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def picture(seed: int, kind: str = "PNG", mask: bool = False) -> bytes:
    values = np.random.default_rng(seed).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    if mask:
        values = np.zeros((24, 32), np.uint8)
        values[4 + seed : 16, 8:20] = 255
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, quality=100)
    return file.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return file.getvalue()


KVASIR = {
    f"Kvasir-SEG/{part}/{i}.jpg": picture(i, "JPEG", part == "masks") for i in range(3) for part in ("images", "masks")
} | {"Kvasir-SEG/kavsir_bboxes.json": b"{}", "__MACOSX/Kvasir-SEG/images/._0.jpg": b"junk"}

Offer = Callable[..., Release]


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archives are made up and small: a machine whose disk would not hold the real ones runs these tests too."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1 << 40))


@pytest.fixture
def offer(server: Server, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Let the local server stand for the provider of a data set: the catalogue's entry, with its addresses replaced."""

    def put(name: str, bodies: dict[str, bytes], checksums: bool = True) -> Release:
        known = RELEASES[name]
        assert list(bodies) == [archive.file for archive in known.archives]
        for file, body in bodies.items():
            server.files[f"/{file}"] = body
        fake = tuple(
            Archive(
                file, (f"{server.address}/{file}",), len(body), hashlib.sha256(body).hexdigest() if checksums else None
            )
            for file, body in bodies.items()
        )
        release = dataclasses.replace(known, archives=fake)
        monkeypatch.setitem(RELEASES, name, release)
        return release

    return put


def test_kvasir_arrives_in_the_shape_that_check_approves(tmp_path: Path, offer: Offer, server: Server) -> None:
    body = zipped(KVASIR)
    offer("kvasir-seg", {"kvasir-seg.zip": body})
    result = get_data("kvasir-seg", tmp_path / "kvasir", accept_licence=True)
    assert result["pairs"] == 3
    assert result["files"] == [
        {
            "file": "kvasir-seg.zip",
            "address": f"{server.address}/kvasir-seg.zip",
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
    ]
    report = check(tmp_path / "kvasir").as_dict()
    assert (report["pairs"], report["usable"], report["problems"]) == (3, True, [])
    assert (tmp_path / "kvasir/images/2.jpg").read_bytes() == KVASIR["Kvasir-SEG/images/2.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kvasir"]  # nothing is left beside it
    assert sorted(path.name for path in (tmp_path / "kvasir").iterdir()) == ["images", "masks", "source.json"]

    again = get_data("kvasir-seg", tmp_path / "kvasir")
    assert again == result
    assert len(server.seen) == 1
    with pytest.raises(InputError, match="holds kvasir-seg already"):
        get_data("polyps", tmp_path / "kvasir", accept_licence=True)


def test_cut_connection_is_taken_up_where_it_broke(tmp_path: Path, offer: Offer, server: Server) -> None:
    body = zipped(KVASIR)
    offer("kvasir-seg", {"kvasir-seg.zip": body})
    server.cut = [1000, 700]
    assert get_data("kvasir-seg", tmp_path / "k", accept_licence=True, keep=True)["pairs"] == 3
    assert [wanted for _, wanted in server.seen] == [None, "bytes=1000-", "bytes=1700-"]
    assert (tmp_path / "k.downloads/kvasir-seg.zip").read_bytes() == body
    assert [path.name for path in (tmp_path / "k.downloads").iterdir()] == ["kvasir-seg.zip"]


def test_interrupted_command_goes_on(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    server.cut = [1500]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert not (tmp_path / "k").exists()
    assert (tmp_path / "k.downloads/kvasir-seg.zip.part").stat().st_size == 1500
    assert get_data("kvasir-seg", tmp_path / "k", accept_licence=True)["pairs"] == 3
    assert server.seen[-1][1] == "bytes=1500-"


def test_a_command_that_was_killed_after_its_download_knows_where_it_came_from(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves nothing of what it was writing then."""
    offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    expected = get_data("kvasir-seg", tmp_path / "whole", accept_licence=True)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(get, "_arrange", killed)
        with pytest.raises(KeyboardInterrupt):
            get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    store = tmp_path / "k.downloads"
    (store / ".999999999.kvasir-seg.zip.part.json").write_text("{")
    assert get_data("kvasir-seg", tmp_path / "k", accept_licence=True)["files"] == expected["files"]
    assert len(server.seen) == 2
    assert not store.exists()


def test_a_command_that_was_killed_while_it_cleared_up_is_helped_by_the_next(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(get, "_clear", killed)
        with pytest.raises(KeyboardInterrupt):
            get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    (tmp_path / "k.downloads/mine.txt").write_text("mine")
    get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert [path.name for path in (tmp_path / "k.downloads").iterdir()] == ["mine.txt"]
    assert len(server.seen) == 1


def test_what_was_unpacked_and_cannot_be_removed_is_told(
    tmp_path: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a part of the data set for good."""
    offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    listing = os.scandir

    def failing(path: Any = ".") -> Any:
        if str(path).endswith(".unpacked") or isinstance(path, int):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return listing(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        with pytest.raises(OSError, match="Input/output error"):
            get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert not (tmp_path / "k").exists()
    get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert {path.name for path in (tmp_path / "k").iterdir()} == {"images", "masks", "source.json"}


@pytest.mark.parametrize(("ranges", "tagged"), [(True, True), (False, True), (True, False)])
def test_file_replaced_meanwhile_is_fetched_anew(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, ranges: bool, tagged: bool
) -> None:
    server.ranges, server.tagged = ranges, tagged
    server.files["/f"] = bytes(range(200)) * 20
    server.cut = [900]
    part = tmp_path / "f.part"
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "TRIES", 0)
        with pytest.raises(transfer.GiveUpError, match="ended early"):
            transfer.transfer(f"{server.address}/f", part)
    assert part.stat().st_size == 900
    new = bytes(range(199, -1, -1)) * (20 if tagged else 21)  # without a tag only another size tells
    server.files["/f"] = new
    transfer.transfer(f"{server.address}/f", part)
    assert part.read_bytes() == new


def test_busy_server_is_asked_again_and_a_refusing_one_is_not(tmp_path: Path, server: Server) -> None:
    server.files["/f"] = b"x" * 100
    server.status = [503, 429]
    transfer.transfer(f"{server.address}/f", tmp_path / "f.part")
    assert (tmp_path / "f.part").read_bytes() == b"x" * 100
    assert len(server.seen) == 3
    server.status = [503] * transfer.TRIES
    with pytest.raises(transfer.GiveUpError, match=f"503 .*{transfer.TRIES} times"):
        transfer.transfer(f"{server.address}/f", tmp_path / "g.part")
    assert len(server.seen) == 3 + transfer.TRIES
    with pytest.raises(transfer.GiveUpError, match="404"):
        transfer.transfer(f"{server.address}/missing", tmp_path / "h.part")
    assert len(server.seen) == 4 + transfer.TRIES


def test_redirection_never_leaves_https() -> None:
    from email.message import Message
    from urllib.request import Request

    redirect = transfer._Redirect().redirect_request
    secure = Request("https://example.org/a")
    with pytest.raises(transfer.GiveUpError, match="https"):
        redirect(secure, None, 302, "Found", Message(), "http://example.org/b")
    followed = redirect(secure, None, 302, "Found", Message(), "https://example.org/b")
    assert followed is not None
    assert followed.full_url == "https://example.org/b"


def test_redirections_are_followed(tmp_path: Path, server: Server) -> None:
    server.files["/b"] = b"body"
    server.redirect = {"/a": f"{server.address}/b"}
    transfer.transfer(f"{server.address}/a", tmp_path / "f.part")
    assert (tmp_path / "f.part").read_bytes() == b"body"


def test_wrong_checksum_is_refused_and_set_aside(tmp_path: Path, offer: Offer, server: Server) -> None:
    body = zipped(KVASIR)
    offer("kvasir-seg", {"kvasir-seg.zip": body})
    server.files["/kvasir-seg.zip"] = body[:-200] + bytes(200)
    with pytest.raises(InputError, match=r"kvasir-seg.zip: SHA-256 is \w+, expected \w+; set aside as .*wrong"):
        get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert not (tmp_path / "k").exists()
    assert [path.name for path in (tmp_path / "k.downloads").iterdir()] == ["kvasir-seg.zip.wrong"]
    (tmp_path / "k.downloads/kvasir-seg.zip").write_bytes(b"by hand, and wrong as well")
    with pytest.raises(InputError, match=r"set aside as .*wrong1"):
        get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert (tmp_path / "k.downloads/kvasir-seg.zip.wrong1").read_bytes() == b"by hand, and wrong as well"
    server.files["/kvasir-seg.zip"] = body
    assert get_data("kvasir-seg", tmp_path / "k", accept_licence=True)["pairs"] == 3


def test_web_page_instead_of_the_file_says_where_to_get_it(tmp_path: Path, offer: Offer, server: Server) -> None:
    release = offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    server.page = True
    with pytest.raises(InputError) as caught:
        get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    place = tmp_path / "k.downloads/kvasir-seg.zip"
    for words in ("web page", release.page, str(place), "--archive"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    place.write_bytes(zipped(KVASIR))  # as the message says
    assert get_data("kvasir-seg", tmp_path / "k", accept_licence=True)["pairs"] == 3


@pytest.mark.parametrize("by_hand", [True, False])
def test_archives_that_were_put_there_by_hand_are_kept(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    """And other files; one that was fetched by a call that was killed before it had unpacked it goes."""
    body = zipped(KVASIR)
    offer("kvasir-seg", {"kvasir-seg.zip": body})
    store = tmp_path / "k.downloads"
    store.mkdir()
    if by_hand:
        (store / "kvasir-seg.zip").write_bytes(body)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("siamese_diffusion.data.fetch.get.whole_folder", lambda out: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
        assert (store / "kvasir-seg.zip").exists()
    (store / "notes.txt").write_text("mine")
    assert get_data("kvasir-seg", tmp_path / "k", accept_licence=True)["pairs"] == 3
    left = ["kvasir-seg.zip", "notes.txt"] if by_hand else ["notes.txt"]
    assert sorted(path.name for path in store.iterdir()) == left


def test_files_that_turn_up_meanwhile_are_not_replaced(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    fetch = get.fetch

    def slowly(*arguments: Any) -> Any:
        (tmp_path / "k").mkdir()
        (tmp_path / "k/mine.txt").write_text("mine")
        return fetch(*arguments)

    monkeypatch.setattr(get, "fetch", slowly)
    with pytest.raises(InputError, match="k: is not empty"):
        get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert (tmp_path / "k/mine.txt").read_text() == "mine"


def test_second_address_serves_when_the_first_does_not(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    (archive,) = release.archives
    both = dataclasses.replace(archive, addresses=(f"{server.address}/gone", *archive.addresses))
    monkeypatch.setitem(RELEASES, "kvasir-seg", dataclasses.replace(release, archives=(both,)))
    result = get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert result["files"][0]["address"] == archive.addresses[0]


def polyps() -> dict[str, bytes]:
    train = {
        f"TrainDataset/{part}/{i}.png": picture(i, mask=part == "mask") for i in range(4) for part in ("image", "mask")
    }
    test = {
        f"TestDataset/{name}/{part}/{i}.png": picture(i + 4 + 2 * number, mask=part == "masks")
        for i in range(2)
        for number, name in enumerate(("CVC-300", "Kvasir"))
        for part in ("images", "masks")
    }
    return {"TrainDataset.zip": zipped(train), "TestDataset.zip": zipped(test)}


def test_polyps_release_keeps_its_test_sets(tmp_path: Path, offer: Offer) -> None:
    offer("polyps", polyps(), checksums=False)
    result = get_data("polyps", tmp_path / "p", accept_licence=True)
    assert (result["pairs"], result["splits"]) == (8, {"test": 4, "train": 4})
    assert check(tmp_path / "p").as_dict()["usable"]
    assert [pair.name for pair in DataFolder(tmp_path / "p").pairs("test")][:2] == ["CVC-300-0", "CVC-300-1"]


def isic(year: int) -> dict[str, bytes]:
    """Made-up archives under the real names, with the challenges' ways of naming masks, superpixels and notices."""
    bodies, number = {}, 0
    for archive in RELEASES[f"isic{year}"].archives:
        top = archive.file.removesuffix(".zip")
        truth = top.endswith("GroundTruth")
        first = {"Tra": 0, "Val": 10, "Tes": 20}[top.split("_")[2 if year == 2018 else 3][:3]]
        members = {f"{top}/ATTRIBUTION.txt": b"thanks", f"{top}/LICENSE.txt": b"terms"}
        for i in range(first, first + 2):
            number += 1
            if truth:
                members[f"{top}/ISIC_{i:07d}_{'S' if year == 2016 else 's'}egmentation.png"] = picture(
                    i % 10, mask=True
                )
            else:
                members[f"{top}/ISIC_{i:07d}.jpg"] = picture(number, "JPEG")
                members[f"{top}/ISIC_{i:07d}_superpixels.png"] = picture(number)
        bodies[archive.file] = zipped(members)
    return bodies


@pytest.mark.parametrize(
    ("year", "expected"), [(2016, {"train": 2, "test": 2}), (2018, {"train": 2, "val": 2, "test": 2})]
)
def test_isic_gets_its_splits(tmp_path: Path, offer: Offer, year: int, expected: dict[str, int]) -> None:
    offer(f"isic{year}", isic(year))
    out = tmp_path / "isic"
    result = get_data(f"isic{year}", out, accept_licence=True)
    assert result["splits"] == expected
    report = check(out).as_dict()
    assert (report["pairs"], report["usable"], report["problems"]) == (sum(expected.values()), True, [])
    assert (DataFolder(out).lists or {})["test"] == ["ISIC_0000020", "ISIC_0000021"]
    assert {path.suffix for path in (out / "images").iterdir()} == {".jpg"}
    notices = [path for path in (out / "notices").iterdir() if path.read_bytes() == b"terms"]
    assert len(notices) == len(RELEASES[f"isic{year}"].archives)


CLINIC = {
    f"CVC-ClinicDB/{part}/{i}.tif": picture(i, "TIFF", part != "Original")
    for i in (1, 2)
    for part in ("Original", "Ground Truth")
}


def test_clinic_from_a_file_and_from_a_folder(tmp_path: Path, offer: Offer, server: Server) -> None:
    both = CLINIC | {name.replace("CVC-ClinicDB", "PNG").replace(".tif", ".png"): body for name, body in CLINIC.items()}
    (tmp_path / "copy.zip").write_bytes(zipped(both))
    with zipfile.ZipFile(tmp_path / "copy.zip") as file:
        file.extractall(tmp_path / "unpacked")
    for source in ("copy.zip", "unpacked"):
        out = tmp_path / f"from-{source}"
        assert get_data("cvc-clinicdb", out, accept_licence=True, archives=[tmp_path / source])["pairs"] == 2
        report = check(out).as_dict()
        assert (report["usable"], report["formats"]) == (True, {"tif RGB": 2})
        assert DataFolder(out).pairs()[0].read()[1].any()
    assert (tmp_path / "unpacked/CVC-ClinicDB/Original/1.tif").exists()  # a user's folder is copied, not moved
    assert (tmp_path / "copy.zip").exists()
    assert server.seen == []


def rar(members: dict[str, bytes]) -> bytes:
    """A RAR 4 archive, stored: marker, archive header, then a header and the bytes for each file, and the end."""

    def block(kind: int, flags: int, rest: bytes, body: bytes = b"") -> bytes:
        header = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header + body

    blocks = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, body in members.items():
        coded = name.encode()
        sizes = struct.pack("<IIBII", len(body), len(body), 3, zlib.crc32(body), 0x21000000)
        rest = sizes + struct.pack("<BBHI", 20, 0x30, len(coded), 0o100644) + coded
        blocks.append(block(0x74, 0x8000, rest, body))
    return b"".join([*blocks, block(0x7B, 0x4000, b"")])


@pytest.fixture
def bsdtar(tmp_path: Path) -> None:
    try:
        archives.find_bsdtar(tmp_path)
    except InputError:
        pytest.skip("bsdtar is not installed")


@pytest.mark.usefixtures("bsdtar")
def test_clinic_as_rar(tmp_path: Path, offer: Offer) -> None:
    offer("cvc-clinicdb", {"CVC-ClinicDB.rar": rar(CLINIC)})
    assert get_data("cvc-clinicdb", tmp_path / "c", accept_licence=True)["pairs"] == 2
    assert (tmp_path / "c/masks/2.tif").read_bytes() == CLINIC["CVC-ClinicDB/Ground Truth/2.tif"]


@pytest.mark.usefixtures("bsdtar")
def test_rar_obeys_the_same_rules(tmp_path: Path) -> None:
    for name, body, limit, words in (
        ("../out.tif", b"x", 100, "outside"),
        ("big.tif", b"x" * 101, 100, "far more"),
    ):
        path = tmp_path / "a.rar"
        path.write_bytes(rar({name: body}))
        with pytest.raises(InputError, match=words):
            unpack(path, tmp_path / "in", Limits(limit))
    path.write_bytes(rar(CLINIC)[:-3000])
    with pytest.raises(InputError, match=r"a.rar: cannot be unpacked"):
        unpack(path, tmp_path / "in", Limits(1 << 20))


SCRIPT = """#!{python}
import io, sys, tarfile
if sys.argv[1] == "--version":
    print("bsdtar 3.7.2 - libarchive 3.7.2")
    raise SystemExit
assert sys.argv[1:5] == ["-cf", "-", "--format", "pax"] and sys.argv[5].startswith("@")
if open(sys.argv[5][1:], "rb").read() == b"Rar! damaged":
    print("bsdtar: Truncated input file", file=sys.stderr)
    raise SystemExit(1)
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as file:
    for name, body, kind in (("a/Original/1.tif", b"one", tarfile.REGTYPE), ("a", b"", tarfile.DIRTYPE), *{extra!r}):
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(body), kind, "/etc/passwd"
        file.addfile(member, io.BytesIO(body))
"""


@pytest.mark.skipif(os.name != "posix", reason="a script as a program")
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([], None),
        ([("../../evil", b"x", b"0")], "outside"),
        ([("/evil", b"x", b"0")], "outside"),
        ([("link", b"", b"2")], "link is a link"),
        ([("hard", b"", b"1")], "hard is a link"),
        ([("pipe", b"", b"6")], "pipe is a special file"),
        ([("A/original/1.TIF", b"x", b"0")], "twice"),
        ([("long", b"x" * 200, b"0")], "far more"),
    ],
)
def test_stream_of_another_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[tuple[str, bytes, bytes]], words: str | None
) -> None:
    program = tmp_path / "bin/bsdtar"
    program.parent.mkdir()
    program.write_text(SCRIPT.format(python=sys.executable, extra=extra))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    path = tmp_path / "a.rar"
    path.write_bytes(b"Rar! whatever")
    if words is None:
        (found,) = unpack(path, tmp_path / "in", Limits(100))
        assert found.read_bytes() == b"one"
        path.write_bytes(b"Rar! damaged")
        with pytest.raises(InputError, match=r"a.rar: cannot be unpacked.*Truncated input file"):
            unpack(path, tmp_path / "in2", Limits(100))
    else:
        with pytest.raises(InputError, match=words):
            unpack(path, tmp_path / "in", Limits(100))
        assert not (tmp_path / "evil").exists()


def tarred(members: Sequence[tuple[str, bytes, bytes]], kind: str = "gz") -> bytes:
    content = io.BytesIO()
    mode: Any = f"w:{kind}"
    with tarfile.open(fileobj=content, mode=mode) as file:
        for name, body, type_ in members:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(body), type_, "/etc/passwd"
            file.addfile(member, io.BytesIO(body))
    return content.getvalue()


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_tar_needs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.archive"
    whole = tarred([("data", b"", tarfile.DIRTYPE), ("data/images/a.png", picture(1), b"0"), ("._a", b"x", b"0")], kind)
    path.write_bytes(whole)
    (found,) = unpack(path, tmp_path / "in", Limits(1 << 20))
    assert found == tmp_path / "in/data/images/a.png"
    assert found.read_bytes() == picture(1)
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match=r"a.archive: .*damaged"):
        unpack(path, tmp_path / "cut", Limits(1 << 20))


def test_tar_that_would_get_out_or_grow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    plain = tarfile.REGTYPE
    long_name = "d/" + "x" * (2 << 20)
    for members, words in (
        ([("../../evil", b"x", plain)], "outside"),
        ([("/evil", b"x", plain)], "outside"),
        ([("link", b"", tarfile.SYMTYPE)], "link is a link"),
        ([("pipe", b"", tarfile.FIFOTYPE)], "pipe is a special file"),
        ([("a", b"x", plain), ("A", b"x", plain)], "twice"),
        ([("long", b"x" * 101, plain)], "far more"),
        ([(long_name, b"", plain)], "longer than any"),
        ([("holes", b"", tarfile.GNUTYPE_SPARSE)], "stored with holes"),
        ([("only a folder", b"", tarfile.DIRTYPE)], "holds no files"),
    ):
        path.write_bytes(tarred(members))
        with pytest.raises(InputError, match=words):
            unpack(path, tmp_path / "in", Limits(100))
    path.write_bytes(gzip.compress(bytes(200 << 20)))  # empty blocks, without an end
    with pytest.raises(InputError, match=r"a.tgz: (holds no files|grows more than)"):
        unpack(path, tmp_path / "in", Limits(100))
    path.write_bytes(gzip.compress(b"x" * 100))
    with pytest.raises(InputError, match=r"a.tgz: the archive is damaged"):
        unpack(path, tmp_path / "in", Limits(100))
    assert not (tmp_path / "evil").exists()


def test_what_an_archive_holds_besides_files_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are unpacked as well: a few KB of them may be many MB."""
    monkeypatch.setattr(archives, "_SMALL", 1 << 20)
    path = tmp_path / "a.tgz"
    path.write_bytes(tarred([(f"{i}{'x' * 900_000}", b"", tarfile.DIRTYPE) for i in range(16)]))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"a.tgz: grows more than 200 times"):
        unpack(path, tmp_path / "in", Limits(100))


def test_rar_without_the_program_says_what_to_do(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    offer("cvc-clinicdb", {"CVC-ClinicDB.rar": rar(CLINIC)})
    with pytest.raises(InputError, match=r"CVC-ClinicDB.rar: .*libarchive-tools.*--archive"):
        get_data("cvc-clinicdb", tmp_path / "c", accept_licence=True)
    assert server.seen == []
    (tmp_path / "a.rar").write_bytes(rar(CLINIC))
    with pytest.raises(InputError, match=r"a.rar: .*libarchive-tools.*--archive"):
        unpack(tmp_path / "a.rar", tmp_path / "in", Limits(1 << 20))


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/evil.png", "C:/evil.png", "..\\evil.png", "a\x01b.png"]
)
def test_no_path_leads_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"good.png": b"x", name: b"evil"}))
    with pytest.raises(InputError, match=r"a.zip: .* outside"):
        unpack(tmp_path / "a.zip", tmp_path / "deep/er", Limits(1 << 20))
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "deep").exists()  # nothing is written before every member is looked at


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    for kind, words in ((stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is a special file")):
        member = zipfile.ZipInfo("door")
        member.external_attr = (kind | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(member, "/etc/passwd")
        with pytest.raises(InputError, match=words):
            unpack(tmp_path / "a.zip", tmp_path / "in", Limits(1 << 20))
        assert not (tmp_path / "in").exists()


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"zeros.bmp": bytes(100 << 20)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="grows more than 200 times"):
        unpack(path, tmp_path / "in", Limits(1 << 30))
    with pytest.raises(InputError, match="more than 50 MiB"):
        unpack(path, tmp_path / "in", Limits(50 << 20))
    path.write_bytes(zipped({f"{i}.png": b"" for i in range(6)}))
    with pytest.raises(InputError, match="or 5 files"):
        unpack(path, tmp_path / "in", Limits(1 << 20, files=5))
    assert len(unpack(path, tmp_path / "in", Limits(1 << 20, files=6))) == 6


def test_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    body = zipped({"a.bmp": bytes(5000)}, zipfile.ZIP_DEFLATED)
    assert body.count(struct.pack("<I", 5000)) == 2
    (tmp_path / "a.zip").write_bytes(body.replace(struct.pack("<I", 5000), struct.pack("<I", 50)))
    with pytest.raises(InputError, match=r"a.zip: "):
        unpack(tmp_path / "a.zip", tmp_path / "in", Limits(1 << 20))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.bmp")) <= 50


def test_damaged_archives_are_one_line(tmp_path: Path) -> None:
    body = zipped(KVASIR)
    path = tmp_path / "a.zip"
    middle = len(body) // 3
    for broken, words in (
        (body[:-2000], "end is missing"),
        (body[:middle] + bytes(40) + body[middle + 40 :], "damaged"),
        (b"  <!DOCTYPE html><html>quota exceeded</html>", "web page"),
    ):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=rf"a.zip: .*{words}") as caught:
            unpack(path, tmp_path / words, Limits(1 << 24))
        assert "\n" not in str(caught.value)


def test_encrypted_archive_is_refused(tmp_path: Path) -> None:
    body = bytearray(zipped({"a.png": b"secret"}))
    body[body.index(b"PK\x03\x04") + 6] |= 1
    body[body.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(body)
    with pytest.raises(InputError, match=r"a.zip: is encrypted.*--archive"):
        unpack(tmp_path / "a.zip", tmp_path / "in", Limits(1 << 20))


def test_another_archive_is_not_taken_for_the_data_set(tmp_path: Path) -> None:
    for members in ({"photos/1.jpg": picture(1, "JPEG")}, {"Kvasir-SEG/images/1.jpg": picture(1, "JPEG")}):
        (tmp_path / "a.zip").write_bytes(zipped(members))
        with pytest.raises(InputError, match=r"a.zip: not the whole of kvasir-seg .*expected kvasir-seg.zip") as caught:
            get_data("kvasir-seg", tmp_path / "k", accept_licence=True, archives=[tmp_path / "a.zip"])
        assert str(os.getpid()) not in str(caught.value)  # no path of the temporary folder
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_full_disk_is_told_before_anything_is_fetched(
    tmp_path: Path, offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=300 << 20))
    with pytest.raises(InputError, match=r"k: needs 0.4 GB on the disk and 0.3 GB are free"):
        get_data("kvasir-seg", tmp_path / "k", accept_licence=True)
    assert server.seen == []


def test_licence_is_shown_and_must_be_accepted(
    tmp_path: Path, offer: Offer, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    release = offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # not a terminal: a pipe's yes is no consent
    with pytest.raises(InputError, match="--accept-licence"):
        get_data("kvasir-seg", tmp_path / "k")
    assert release.licence in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    with pytest.raises(InputError, match="not accepted"):
        get_data("kvasir-seg", tmp_path / "k")
    assert server.seen == []
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    assert get_data("kvasir-seg", tmp_path / "k")["pairs"] == 3


def test_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, out, given, words in (
        ("kvasir", "k", [], "kvasir: no such data set; there are kvasir-seg, cvc-clinicdb"),
        ("kvasir-seg", "full", [], "is not empty"),
        ("kvasir-seg", "file", [], "is a file"),
        ("kvasir-seg", "k", [tmp_path / "none.zip"], "--archive .*none.zip: no such file"),
    ):
        with pytest.raises(InputError, match=words):
            get_data(name, tmp_path / out, accept_licence=True, archives=given)
    with pytest.raises(InputError, match=r"--out \.: name a folder"):
        get_data("kvasir-seg", Path(), accept_licence=True)
    assert (tmp_path / "full/mine.txt").exists()


def test_catalogue_is_sound() -> None:
    assert [row["name"] for row in list_data()] == ["kvasir-seg", "cvc-clinicdb", "polyps", "isic2016", "isic2018"]
    for release in RELEASES.values():
        for archive in release.archives:
            assert all(address.startswith("https://") for address in archive.addresses)
            assert archive.sha256 is None or len(bytes.fromhex(archive.sha256)) == 32
            assert archive.size is None or archive.size < release.unpacked
        assert set(release.split.values()) in (set(), set(release.pairs))


def test_commands(tmp_path: Path, offer: Offer) -> None:
    offer("kvasir-seg", {"kvasir-seg.zip": zipped(KVASIR)})
    run = CliRunner().invoke
    listed = run(app, ["data", "list", "--json"])
    assert [row["name"] for row in json.loads(listed.stdout)] == list(RELEASES)
    assert "Kvasir-SEG" in run(app, ["data", "list"]).stdout
    refused = run(app, ["data", "get", "kvasir-seg", "--out", str(tmp_path / "k")], input="y\n")
    assert refused.exit_code == 2
    done = run(app, ["data", "get", "kvasir-seg", "--out", str(tmp_path / "k"), "--accept-licence", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["pairs"] == 3
    again = run(app, ["data", "get", "kvasir-seg", "--out", str(tmp_path / "k")])
    assert again.exit_code == 0
    assert "3 pairs" in again.stdout


def test_help_of_data_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from siamese_diffusion.cli import app; "
        "CliRunner().invoke(app, ['data', '--help']); "
        "print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
