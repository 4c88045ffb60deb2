"""Get one file over HTTP, and go on where an earlier attempt stopped.

The bytes go to a `.part` file, and a `.part.json` beside it says of which address, version (ETag or Last-Modified) and
size they are. A range request (RFC 9110, section 14) with If-Range asks for the rest, so that a file which the provider
has replaced meanwhile is fetched anew and never glued to the old one.
"""

import errno
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, OpenerDirector, Request, build_opener

from typing_extensions import TypedDict

from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, write_json
from siamese_diffusion.progress import bar, notify

TRIES = 6
"""Failures in a row, without a byte received, after which an address is given up."""
PAUSE = 1.0
"""Seconds before the first new try; doubled with every further one, up to a minute."""
_TIMEOUT = 60.0
_BLOCK = 1 << 18


class GiveUpError(Exception):
    """An address will not give the file."""


def transfer(address: str, part: Path) -> None:
    """Bring `part` to the whole of what `address` has; a cut connection is taken up again.

    Raises:
        GiveUpError: the address refuses, answers with a web page, or fails `TRIES` times in a row.
    """
    opener = build_opener(HTTPCookieProcessor(CookieJar()), _Redirect())
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        wait = 0.0
        try:
            if _receive(opener, address, part):
                return
            reason = "the connection ended early"
        except HTTPError as error:
            error.close()
            if error.code == 416:  # what is here is not the beginning of what is there
                part.unlink(missing_ok=True)
            elif error.code not in (408, 429) and error.code < 500:
                raise GiveUpError(f"HTTP {error.code} {error.reason}") from None
            reason = f"HTTP {error.code} {error.reason}"
            wait = float(_whole_number(error.headers.get("Retry-After")) or 0)
        except InputError:
            raise
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a redirection to what is no address
            if isinstance(error, OSError) and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)):
                raise  # the disk, not the network
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
        if failures >= TRIES:
            raise GiveUpError(f"{reason}, {TRIES} times")
        wait = min(60.0, max(wait, PAUSE * 2 ** max(0, failures - 1)))
        notify(f"{part.stem}: {reason}; trying again in {wait:.0f} s")
        time.sleep(wait)


def _receive(opener: OpenerDirector, address: str, part: Path) -> bool:
    """One request, from where `part` ends; whether the file is complete after it."""
    note = part_record(part)
    known = read_note(note) if part.exists() else None
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "siamese-diffusion", "Accept-Encoding": "identity"}
    if have and known is not None and known["address"] == address and (known["version"] or known["size"]):
        if have == known["size"]:
            return True
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": known["version"]} if known["version"] else {})
    with opener.open(Request(address, headers=headers), timeout=_TIMEOUT) as response:
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise GiveUpError("answers with a web page instead of the file")
        start, size = _extent(response, have)
        if start is None:
            raise GiveUpError("answers with another part of the file than asked for")
        if start and (known is None or size != known["size"]):
            part.unlink()
            return False
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if version and version.startswith("W/"):  # says nothing about the bytes
            version = response.headers.get("Last-Modified")
        if not start:
            part.unlink(missing_ok=True)  # before the note, which would vouch for it
        write_json(note, {"address": address, "version": version, "size": size})
        with part.open("r+b" if start else "xb") as file:
            file.seek(start)
            for block in _blocks(response, part.stem, start, size):
                file.write(block)
        return size is None or part.stat().st_size == size


def _extent(response: HTTPResponse, have: int) -> tuple[int | None, int | None]:
    """Where in the file the answer starts (None: not where it should), and the size of the whole file where it is
    told."""
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return 0, _whole_number(length)
    span, _, total = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("/")
    if _whole_number(span.partition("-")[0]) != have:
        return None, None
    return have, _whole_number(total)


def _whole_number(text: str | None) -> int | None:
    """What a header says, where it is a number of bytes or seconds that there may be."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


class _Note(TypedDict):
    address: str
    version: str | None
    size: int | None


def read_note(path: Path) -> _Note | None:
    """What a part is known to be; a note that is damaged vouches for nothing."""
    try:
        return read_json(path, _Note)
    except InputError:
        return None


def _blocks(response: HTTPResponse, name: str, start: int, size: int | None) -> Iterator[bytes]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=bar().console) as progress:
        task = progress.add_task(name, total=size, completed=start)
        while block := response.read(_BLOCK):
            progress.advance(task, len(block))
            yield block


class _Redirect(HTTPRedirectHandler):
    """Follows redirections, but never from https to anything else."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            raise GiveUpError(f"redirects from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def part_record(part: Path) -> Path:
    """The file that says what `part` is a part of."""
    return part.with_name(part.name + ".json")
