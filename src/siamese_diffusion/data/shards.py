"""Pairs in WebDataset shards: tar archives of `NAME.image.png`, `NAME.mask.png` and `NAME.json`, read without
unpacking."""

import json
import os
import re
import tarfile
from collections.abc import Set
from contextlib import ExitStack, suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from siamese_diffusion.claim import INPUTS, mark, marked_by
from siamese_diffusion.data.classes import AnyMask
from siamese_diffusion.data.images import SUFFIXES, Pixels
from siamese_diffusion.data.tars import base_name, index, member_name
from siamese_diffusion.data.writer import encoded, made_here, writing
from siamese_diffusion.errors import InputError, printable
from siamese_diffusion.files import decode, full_disk_named, parse_json, read_json, whole_file, write_json

FOLDER, MANIFEST = "shards", "shards.json"


class ShardContents(NamedTuple):
    """Pairs of shards by name; images and masks as paths of members, see `tars`."""

    images: dict[str, Path]
    masks: dict[str, Path]
    rows: dict[str, dict[str, Any]]
    doubled: list[Path]
    """Members whose name another one of the same kind has."""
    broken: list[tuple[Path, str]]
    """A shard, or the manifest, and what is wrong with it."""


def find_shards(folder: Path) -> list[Path]:
    """The shards of a folder, by name; empty where there are none. Hidden files are being written."""
    return sorted((folder / FOLDER).glob("[!.]*.tar"))


def read_shards(folder: Path) -> ShardContents:
    """What the shards of a folder hold; images and masks are not opened.

    The rows are read along. Where there is a manifest, its shards must be there with the pairs that it counts.
    """
    found = ShardContents({}, {}, {}, [], [])
    counts = {}
    for shard in find_shards(folder):
        before = len(found.images)
        try:
            _read_shard(shard, found)
        except InputError as error:
            found.broken.append((shard, str(error).partition(": ")[2]))
        counts[f"{FOLDER}/{shard.name}"] = len(found.images) - before
    found.broken.extend(_unlike_manifest(folder, counts, {path.parent for path, _ in found.broken}))
    return found


def _read_shard(shard: Path, found: ShardContents) -> None:
    spans = index(shard)
    with shard.open("rb") as file:
        for member, span in spans.items():
            path = shard / member
            name, kind = base_name(path), member.partition(".")[2].lower()
            if kind == "json":
                file.seek(span.start)
                found.rows[name] = _row(file.read(span.size), f"{shard}: {printable(member)}")
            for files, of in ((found.images, "image"), (found.masks, "mask")):
                if kind.partition(".")[0] == of and Path(kind).suffix in SUFFIXES:
                    if name in files:
                        found.doubled.append(path)
                    files.setdefault(name, path)


def _row(content: bytes, what: str) -> dict[str, Any]:
    row = parse_json(decode(content, what), what)
    if not isinstance(row, dict):
        raise InputError(f"{what} is not a JSON object")
    if not isinstance(row.get("prompt"), str | None):
        raise InputError(f"{what} has a prompt that is no text")
    return row


class _Counted(TypedDict):
    file: str
    pairs: int


class _Manifest(TypedDict):
    shards: list[_Counted]


def _unlike_manifest(folder: Path, counts: dict[str, int], broken: set[Path]) -> list[tuple[Path, str]]:
    path = folder / MANIFEST
    if not path.exists():  # a run that was interrupted, or another program's shards
        return []
    try:
        listed = {entry["file"]: entry["pairs"] for entry in read_json(path, _Manifest)["shards"]}
    except InputError as error:
        return [(path, f"is no list of shards ({str(error).partition(': ')[2]})")]
    return [
        (
            folder / file,
            f"holds {counts[file]} of its {pairs} pairs" if file in counts else f"is gone, {path.name} names it",
        )
        for file, pairs in listed.items()
        if counts.get(file) != pairs and folder / file not in broken
    ]


class ShardWriter:
    """Writes pairs as shards `shards/pairs-PPPP-NNNNNN.tar` (process, number) that may be killed at any moment.

    A shard is there once it is whole, and is never changed. The pairs of one that was interrupted are written again, so
    a folder that was resumed with as many processes ends up byte for byte as an undisturbed one. Process 0 opens first
    and closes last, after every process's `flush`; `close` writes the manifest, `shards.json`.

    Args:
        folder: where to write.
        resume: keep the shards that are there; the folder bears the mark of this package (see `claim`), or gets it
            here.
        process: number of this process.
        size: pairs of a shard.

    Raises:
        InputError: the folder holds shards and `resume` is false, a shard of it is damaged, it holds files that no
            `ShardWriter` wrote, or it cannot be written to.
    """

    def __init__(self, folder: Path, resume: bool = False, process: int = 0, size: int = 1000) -> None:
        self.folder, self.process, self.size = folder, process, size
        self._open: tuple[Path, tarfile.TarFile, ExitStack] | None = None
        self._held = 0
        if process == 0:
            self._begin(resume)
        self.rows = read_shard_rows(folder)

    @property
    def done(self) -> Set[str]:
        """Names of the pairs that are written."""
        return self.rows.keys()

    def write(self, name: str, image: Pixels, mask: AnyMask, prompt: str, extra: dict[str, Any]) -> None:
        """Add a pair: image uint8 (H, W, 3), mask boolean (H, W) or a label map uint8 (H, W); kept without loss.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        self.add(name, *encoded(image, mask), {"prompt": prompt, **extra})

    def add(self, name: str, image: bytes, mask: bytes, extra: dict[str, Any]) -> None:
        """Add a pair of PNG files, as their contents; errors as in `write`."""
        with writing(f"{self.folder}: pair {name}"):
            path, archive, _ = self._open = self._open or self._next()
            with full_disk_named(path):
                for kind, content in (
                    ("image.png", image),
                    ("mask.png", mask),
                    ("json", json.dumps(extra).encode()),
                ):
                    member = tarfile.TarInfo(
                        member_name(name, kind)
                    )  # without time and owner: the same file every time
                    member.size = len(content)
                    archive.addfile(member, BytesIO(content))
        self.rows[name] = extra
        self._held += 1
        if self._held == self.size:
            self.flush()

    def flush(self) -> None:
        """End the shard that is being written: what was written is there.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        if self._open is not None:
            path, _, stack = self._open
            self._open, self._held = None, 0
            with writing(str(path)):
                stack.close()

    def close(self) -> None:
        """End the shard, and write the manifest of all processes' shards; errors as in `flush`."""
        self.flush()
        if self.process:
            return
        counts = {shard: sum(name.endswith(".json") for name in index(shard)) for shard in find_shards(self.folder)}
        shards = [{"file": f"{FOLDER}/{shard.name}", "pairs": pairs} for shard, pairs in counts.items()]
        with writing(str(self.folder / MANIFEST)):
            write_json(self.folder / MANIFEST, {"pairs": sum(counts.values()), "shards": shards})

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is None:
            self.close()
        elif self._open is not None:
            self._open[2].__exit__(*exception)  # removes what was begun

    def _begin(self, resume: bool) -> None:
        if any((self.folder / name).exists() for name in ("images", "masks", "pairs.jsonl")):
            raise InputError(f"--out {self.folder}: holds pairs that are not in shards; name another folder")
        found = list((self.folder / FOLDER).iterdir()) if (self.folder / FOLDER).is_dir() else []
        known = marked_by(self.folder) is not None or shards_written_earlier(self.folder)
        taken = found or any((self.folder / name).exists() for name in (MANIFEST, INPUTS))
        if (taken and not known) or not all(_is_own(path) for path in found):
            raise InputError(f"--out {self.folder}: holds files that this program did not write; name another folder")
        if not resume and find_shards(self.folder):
            raise InputError(f"--out {self.folder}: already holds shards; name another folder")
        with writing(f"--out {self.folder}: the folder"):
            mark(self.folder, "pairs")
            (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            for path in found:
                if path.name.startswith("."):  # was being written
                    path.unlink()

    def _next(self) -> tuple[Path, tarfile.TarFile, ExitStack]:
        names = (f"pairs-{self.process:04d}-{number:06d}.tar" for number in count())
        path = next(self.folder / FOLDER / name for name in names if not (self.folder / FOLDER / name).exists())
        with ExitStack() as stack:
            file = stack.enter_context(stack.enter_context(whole_file(path)).open("wb"))
            stack.callback(os.fsync, file.fileno())  # else a power cut may leave the final name on half a shard
            stack.callback(file.flush)
            archive = stack.enter_context(tarfile.open(fileobj=file, mode="w"))
            return path, archive, stack.pop_all()


def read_shard_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of the whole shards of a folder that a `ShardWriter` wrote, or is writing, by their pairs' names.

    Raises:
        InputError: a shard is damaged, which is the user's to delete, or two have one pair.
    """
    found = ShardContents({}, {}, {}, [], [])
    for shard in find_shards(folder):
        try:
            _read_shard(shard, found)
            if not found.images.keys() == found.masks.keys() == found.rows.keys():
                raise InputError(f"{shard}: not every pair has its image, mask and row")
        except InputError as error:
            raise InputError(f"{error}; delete it, and --resume draws its pairs again") from None
    if found.doubled:
        raise InputError(f"{found.doubled[0]}: another shard has this pair; name another folder")
    return found.rows


def shards_written_earlier(folder: Path) -> bool:
    """Whether a folder that bears no mark holds shards by an earlier version of this package: see `written_earlier`."""
    found = ShardContents({}, {}, {}, [], [])
    for shard in find_shards(folder):
        with suppress(InputError):  # a damaged one
            _read_shard(shard, found)
    shards = list((folder / FOLDER).glob("*"))
    if not find_shards(folder) and not (folder / MANIFEST).exists():  # stopped before the first one was whole
        return bool(shards) and all(_is_own(path) for path in shards)
    return bool(found.rows) and all(_is_own(path) for path in shards) and all(map(made_here, found.rows.values()))


def _is_own(path: Path) -> bool:
    """Whether a file has a name that `ShardWriter` gives, whole or while it writes."""
    return re.fullmatch(r"(\.\d+\.)?pairs-\d{4,}-\d{6,}\.tar", path.name) is not None
