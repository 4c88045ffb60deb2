"""Damage to images: in their headers, chunks and tags, with checksums that are right."""

import random
import struct
import zlib

from campaign.blind import BLIND, EXTREMES


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
        head = bytearray(chunks[0][1])  # the header: width, height, depth, colour, three methods
        value = random.choice(EXTREMES)
        field = random.randrange(7)
        form, most = (">I", 0xFFFFFFFF) if field < 2 else (">B", 0xFF)
        struct.pack_into(form, head, (0, 4, 8, 9, 10, 11, 12)[field], value & most)
        chunks[0] = chunks[0][0], bytes(head)
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
