"""Damage to tar and ZIP files, to pickles in them, and to safetensors, with checksums and lengths that are right."""

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.blind import BLIND, EXTREMES
from campaign.texts import json_text


def tar_headers(random: random.Random, content: bytes) -> bytes:
    """A field of a header is another; its checksum is right."""
    heads = [at for at in range(0, len(content) - 511, 512) if content[at + 257 : at + 262] == b"ustar"]
    at = random.choice(heads)
    head = bytearray(content[at : at + 512])
    start, size = random.choice(((0, 100), (124, 12), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    hostile = {
        1: (b"0", b"1", b"2", b"3", b"5", b"7", b"L", b"K", b"S", b"x", b"g", b"\0", b"\xff", b"V"),
        12: (
            b"\xff" * 12,
            b"\x80" + b"\xff" * 11,
            b"\xff" * 11 + b"\0",
            b"77777777777\0",
            b"-0000000001\0",
            b"0" * 12,
            b"x" * 12,
            b"00000000001\0",
        ),
    }.get(
        size,
        (
            b"../x",
            b"/etc/x",
            b"",
            b"a/b/c.image.png",
            b".",
            b"x" * size,
            b"\xe9\xff",
            b"a\nb",
            b"./000.image.png",
            b"a.image.png",
            b"\xed\xa0\x80",
        ),
    )
    head[start : start + size] = random.choice(hostile)[:size].ljust(size, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return content[:at] + bytes(head) + content[at + 512 :]


def zip_members(random: random.Random, content: bytes) -> bytes:
    """The same members packed another way, under another name, as another kind of file, or announced with another
    size."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        members = old.infolist()
        chosen = random.randrange(len(members))
        for number, member in enumerate(members):
            data = old.read(member)
            info = zipfile.ZipInfo(member.filename)
            info.compress_type = member.compress_type
            if number == chosen:
                how = random.randrange(6)
                if how == 0:
                    info.filename = random.choice(
                        (
                            "../x",
                            "/x",
                            "a\\..\\..\\x",
                            "C:x",
                            "x" * 300,
                            "images",
                            "masks/a/b",
                            "a\tb",
                            "\udce9",
                            "é",
                            ".",
                            "images/A.PNG",
                        )
                    )
                elif how == 1:
                    info.compress_type = random.choice(
                        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
                    )
                elif how == 2:
                    info.external_attr = random.choice((0o120777, 0o020666, 0o010666, 0o040755, 0o140666)) << 16
                elif how == 3:
                    info.compress_type, data = zipfile.ZIP_DEFLATED, bytes(random.choice((1 << 20, 1 << 26)))
                elif how == 4:
                    data = mutate_pickle(random, data) if data[:1] == b"\x80" else random.choice(BLIND)(random, data)
                else:
                    new.writestr(zipfile.ZipInfo(member.filename.upper()), data)
            new.writestr(info, data)
    content = made.getvalue()
    if random.random() < 0.4:  # the directory at the end, which readers believe
        at = content.rfind(b"PK\x01\x02")
        changed = bytearray(content)
        form, offset = random.choice(
            (("<H", 8), ("<H", 10), ("<I", 16), ("<I", 20), ("<I", 24), ("<H", 28), ("<H", 30), ("<H", 32), ("<I", 42))
        )
        struct.pack_into(form, changed, at + offset, random.choice(EXTREMES) & (0xFFFF if form == "<H" else 0xFFFFFFFF))
        content = bytes(changed)
    return content


class _Canary:
    """Asks whoever unpickles it to make a file."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def mutate_pickle(random: random.Random, content: bytes) -> bytes:
    """Another pickle: opcodes and lengths, or one that wants to run something."""
    if random.random() < 0.2:
        return pickle.dumps(
            random.choice(
                (_Canary(open, "CANARY", "w"), _Canary(Path.touch, Path("CANARY")), [10**400], {"x": {1: 2}}, "x")
            ),
            2,
        )
    return random.choice(BLIND)(random, content)


def torch_file(random: random.Random, content: bytes) -> bytes:
    """A ZIP file of a pickle and its storages, or the older form, a row of pickles."""
    return zip_members(random, content) if content[:2] == b"PK" else mutate_pickle(random, content)


def safetensors_header(random: random.Random, content: bytes) -> bytes:
    """A name, type, shape or offset of the header; its length is right, or is itself another."""
    size = int.from_bytes(content[:8], "little")
    header = json_text(random, content[8 : 8 + size])
    length = len(header) if random.random() < 0.9 else random.choice(EXTREMES)
    return length.to_bytes(8, "little") + header + content[8 + size :]
