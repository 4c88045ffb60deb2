"""Damage for `faults.py mutate`: a file's bytes in, other bytes out, by a generator of random numbers.

Half of it is blind: bits, bytes, blocks, cuts. Blind damage dies at the first checksum, so the other half knows the format:
it changes a value deep inside a JSON text, a chunk of a PNG, a header of a tar or a pickle in a ZIP, and makes the checksums
right again.
"""

import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutate = Callable[[random.Random, bytes], bytes]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 10_000, 100_000, 1 << 20)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-320, 1e308, 10**7, 2**31, 2**63, -(2**63), 10**18),
    *(
        "",
        " ",
        "x",
        "0",
        "nan",
        "../../etc/passwd",
        "/etc/passwd",
        "\0",
        "a\0b",
        "a\nb",
        "é",
        "\U0001f600",
        "CON",
        "..",
        ".",
    ),
    *("x" * 300, "x" * 5000, "<script>alert(1)</script>", "{dataset}", "{0.__class__}", "%s%n", "|", "\\", '"', "'"),
    *([], [[]], [None], [0], ["x"], {}, {"": 0}, {"x": {}}, [[[[[[[[]]]]]]]], list(range(200))),
)
"""What a value of JSON or YAML is replaced with."""

RAW_JSON = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "-" + "9" * 30, '"\\ud800"', '"\\udc00\\ud800"'),
    *(
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "[" * 2000 + "]" * 2000,
        '{"a":' * 3000,
        '"' + "x" * 100_000 + '"',
        "[1, 2",
        "tru",
        "'x'",
    ),
)
"""The same, as text that `json.dumps` does not write."""

RAW_YAML = (
    *("!!timestamp x", "!!int abc", "!!float x", "!!bool x", "!!binary '*'", "!!set {a, b}", "!!omap [a: 1]", "!!null x"),
    *("!!python/object/apply:os.system ['touch CANARY']", "!!python/name:os.system", "!!python/object/new:str [x]", "!x y"),
    *(
        "2001-99-99",
        "2001-01-01T99:99:99Z",
        "9" * 5000,
        "0x" + "f" * 5000,
        "0b" + "1" * 9000,
        "1:30:99",
        "08",
        ".inf",
        ".nan",
    ),
    *("&a [*a]", "*nothing", "&a {<<: *a}", "{<<: 3}", "? [1, 2]\n: x", "{1: x}", "{on: x}", "{null: x}", "{a: 1, a: 2}"),
    *(
        "[" * 5000,
        "- " * 3000 + "x",
        "{a: " * 2000,
        "? " * 2000 + "x",
        "|\n x\n\ty",
        "\t- x",
        "%YAML 9.9\n---\nx",
        "a\n---\nb",
        "@x",
        "`x",
    ),
    "[&a [x, x], "
    + ", ".join(f"&{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + "]",
    "{a: &a {x: 1}, "
    + ", ".join(
        f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}" for old, new in zip("abcdefg", "bcdefgh", strict=True)
    )
    + "}",
)

WHOLE = (
    *(
        b"",
        b"\0",
        b"\0" * 4096,
        b"\xff" * 4096,
        b"\xef\xbb\xbf",
        b"\n" * 1000,
        b"<html><body>Sign in</body></html>",
        b"%!PS\n0 0 moveto\nshowpage\n",
    ),
    *(
        "{}".encode("utf-16"),
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}",
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04\x95",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
    ),
    *(
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"- " * 100_000,
        "caf\xe9".encode("latin-1"),
        b"\xed\xa0\x80",
        b"null",
        b"0",
        b'""',
        b"[]",
        b"{}",
    ),
)
"""Contents that have nothing to do with the file they are in."""


def mutate(random: random.Random, path: Path) -> bytes:
    """Other bytes for a file, which stays as it is."""
    content = path.read_bytes()
    informed = INFORMED.get(path.suffix.lower())
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        how = random.random()
        try:
            if informed is not None and how < 0.6:
                content = informed(random, content)
            elif how < 0.97:
                content = random.choice(BLIND)(random, content)
            else:
                content = random.choice(WHOLE)
        except Exception:  # what is damaged already need not be of the format any more
            content = random.choice(BLIND)(random, content)
    return content


def flip(random: random.Random, content: bytes) -> bytes:
    """Some bits."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 2, 8, 64))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(random: random.Random, content: bytes) -> bytes:
    """The end is gone, or the beginning, or something between."""
    first, last = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return random.choice((content[:first], content[first:], content[:first] + content[last:]))


def insert(random: random.Random, content: bytes) -> bytes:
    """Something more: noise, zeros, or a part of the file once more."""
    at, size = random.randrange(len(content) + 1), random.choice((1, 4, 100, 5000))
    start = random.randrange(len(content) + 1)
    more = random.choice((random.randbytes(size), bytes(size), content[start : start + size]))
    return content[:at] + more + content[at:]


def overwrite(random: random.Random, content: bytes) -> bytes:
    """A number that means most, or nothing, or less; near the beginning, where headers are, as often as anywhere."""
    changed = bytearray(content)
    width = random.choice((1, 2, 4, 8))
    value = random.choice(EXTREMES) & ((1 << 8 * width) - 1)
    at = random.randrange(max(1, min(len(changed), random.choice((64, 1 << 30))) - width + 1))
    changed[at : at + width] = value.to_bytes(width, random.choice(("little", "big")))
    return bytes(changed)


BLIND: tuple[Mutate, ...] = (flip, cut, insert, overwrite, overwrite)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, entry in inner for found in _places(entry, (*place, key)))]


def _change(random: random.Random, value: Any, raw: tuple[str, ...]) -> tuple[Any, str | None]:
    """`value` with one place changed; where it is to be raw text, a word stands there that the caller replaces."""
    places = _places(value)
    place = random.choice(places)
    if not place:
        return random.choice(VALUES), None
    outer = value
    for key in place[:-1]:
        outer = outer[key]
    how = random.random()
    if how < 0.2:
        del outer[place[-1]]
    elif how < 0.3 and isinstance(outer, dict):
        outer[random.choice(("", "x", "1", str(place[-1]).upper(), "train.steps", "\0"))] = outer.pop(place[-1])
    elif how < 0.4:
        outer[place[-1]] = [outer[place[-1]]]
    elif how < 0.8:
        outer[place[-1]] = random.choice(VALUES)
    else:
        outer[place[-1]] = "RAW-TEXT"
        return value, random.choice(raw)
    return value, None


def json_text(random: random.Random, content: bytes) -> bytes:
    """One value deep inside is another, or the text breaks a rule."""
    value, raw = _change(random, json.loads(content), RAW_JSON)
    text = json.dumps(value, indent=random.choice((None, 2)), ensure_ascii=random.random() < 0.5)
    text = text if raw is None else text.replace('"RAW-TEXT"', raw)
    return text.encode("utf-8", "surrogatepass")


def jsonl_text(random: random.Random, content: bytes) -> bytes:
    """One line is changed as a JSON text is, or lines are doubled, blank, or swapped."""
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    how = random.random()
    if how < 0.7 and lines[at].strip():
        lines[at] = json_text(random, lines[at]).replace(b"\n", b" ")
    else:
        lines.insert(at, random.choice((b"", b" ", b"null", lines[random.randrange(len(lines))])))
    return random.choice((b"\n", b"\n", b"\r\n")).join(lines)


def yaml_text(random: random.Random, content: bytes) -> bytes:
    """As of JSON, and with what YAML has besides: tags, anchors, keys that are no text."""
    import yaml

    value, raw = _change(random, yaml.safe_load(content), RAW_YAML)
    if raw is not None and random.random() < 0.3:
        return raw.encode()
    text = yaml.safe_dump(value, default_flow_style=random.random() < 0.3)
    return text.replace("RAW-TEXT", raw or "").encode("utf-8", "surrogatepass")


def csv_text(random: random.Random, content: bytes) -> bytes:
    """One field is another, or a line has more or fewer."""
    rows = [line.split(b",") for line in content.split(b"\n")]
    row = random.choice(rows)
    at = random.randrange(len(row))
    how = random.random()
    if how < 0.6:
        hostile = (
            b"",
            b"nan",
            b"inf",
            b"-1",
            b"1e999",
            b"x",
            b'"',
            b'"a\nb"',
            b"\0",
            b"9" * 5000,
            b"x" * 200_000,
            b"\xe9",
            b"0x1",
            b"1_0",
        )
        row[at] = random.choice(hostile)
    elif how < 0.8:
        row.insert(at, b"x")
    else:
        del row[at]
    return b"\n".join(b",".join(row) for row in rows)


def png_chunks(random: random.Random, content: bytes) -> bytes:
    """A chunk is changed, doubled, dropped or new; its checksum is right."""
    chunks, at = [], 8
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    where = random.randrange(len(chunks))
    kind, data = chunks[where]
    how = random.random()
    if how < 0.35:
        data = bytearray(chunks[0][1])  # the header: width, height, depth, colour, three methods
        value = random.choice(EXTREMES)
        field = random.randrange(7)
        struct.pack_into(
            ">I" if field < 2 else ">B", data, (0, 4, 8, 9, 10, 11, 12)[field], value & (0xFFFFFFFF if field < 2 else 0xFF)
        )
        chunks[0] = chunks[0][0], bytes(data)
    elif how < 0.6:
        chunks[where] = kind, random.choice(BLIND)(random, data)
    elif how < 0.7:
        del chunks[where]
    elif how < 0.8:
        chunks.insert(where, (kind, data))
    else:
        packed = zlib.compress(bytes(random.choice((100, 1 << 20, 1 << 27))))
        new = random.choice(
            (
                (b"iCCP", b"x\0\0" + packed),
                (b"zTXt", b"x\0\0" + packed),
                (b"eXIf", random.randbytes(40)),
                (b"tRNS", b"\0" * 9),
                (b"PLTE", b"\1\2\3\4"),
                (b"IDAT", packed),
                (b"acTL", b"\xff" * 8),
                (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"),
            )
        )
        chunks.insert(max(1, where), new)
    body = (len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks)
    return content[:8] + b"".join(body)


def tiff_tags(random: random.Random, content: bytes) -> bytes:
    """An entry of the first directory has another tag, type, count or value."""
    order = "<" if content[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", content, 4)[0]
    count = struct.unpack_from(order + "H", content, start)[0]
    changed = bytearray(content)
    entry = start + 2 + 12 * random.randrange(max(1, count))
    form, offset = random.choice((("H", 0), ("H", 2), ("I", 4), ("I", 8), ("H", 8)))
    most = 0xFFFF if form == "H" else 0xFFFFFFFF
    value = random.choice((*EXTREMES, random.randrange(20), random.randrange(1 << 16))) & most
    struct.pack_into(order + form, changed, entry + offset, value)
    return bytes(changed)


def jpeg_segments(random: random.Random, content: bytes) -> bytes:
    """The header's numbers, or a segment's length; the coded pixels stay."""
    start = max(2, content.find(b"\xff\xda"))
    changed = bytearray(content)
    at = random.randrange(2, start + 2)
    changed[at] = random.choice((0, 1, 0x11, 0x7F, 0xFF, random.randrange(256)))
    return bytes(changed)


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
    """The same members packed another way, under another name, as another kind of file, or announced with another size."""
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


INFORMED: dict[str, Mutate] = {
    ".json": json_text,
    ".jsonl": jsonl_text,
    ".yaml": yaml_text,
    ".csv": csv_text,
    ".png": png_chunks,
    ".tif": tiff_tags,
    ".jpg": jpeg_segments,
    ".tar": tar_headers,
    ".zip": zip_members,
    ".pt": torch_file,
    ".ckpt": torch_file,
    ".safetensors": safetensors_header,
}
"""By a file's extension."""

assert tarfile.BLOCKSIZE == 512
