"""Damage that knows no format: bits, bytes, blocks, cuts, numbers that mean most."""

import random
from collections.abc import Callable

Mutate = Callable[[random.Random, bytes], bytes]
"""Random numbers and a file's content to another content."""

EXTREMES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    10_000,
    100_000,
    1 << 20,
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
