"""Write a folder of pairs: `images/`, `masks/` and `pairs.jsonl`."""

import json
import os
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from siamese_diffusion.claim import INPUTS, mark, marked_by
from siamese_diffusion.data.classes import AnyMask, stored_mask
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl, write_jsonl, write_whole
from siamese_diffusion.pictures import png

MANIFEST = "pairs.jsonl"
METADATA = "metadata.jsonl"
"""The same for `datasets.load_dataset("imagefolder", ...)` of Hugging Face, which makes an image of what a key in
`_file_name` names. Here nothing reads it: a folder with `MANIFEST` is read by that."""
KINDS = ("images", "masks")


class PairWriter:
    """Writes a folder of pairs that may be killed at any moment and gone on with.

    A pair is there once its line is in `pairs.jsonl`, which is written after both files are whole. `close` sorts the
    lines, so an interrupted and resumed folder ends up byte for byte as an undisturbed one. A picture that it did not
    write is never removed or replaced: before it writes one it notes whose, and what a killed call left is known by
    that.

    Several processes may write one folder: process 0 opens first and closes last; the others keep their lines in
    `pairs.PROCESS.jsonl`, which `close` (or the next writer, where they were killed) brings together.

    Args:
        folder: where to write; it bears the mark of this package (see `claim`), or gets it here.
        resume: keep the pairs that are complete.
        process: number of this process.

    Raises:
        InputError: the folder holds pairs and `resume` is false, it holds files that no `PairWriter` wrote, or it
            cannot be written to.
    """

    def __init__(self, folder: Path, resume: bool = False, process: int = 0) -> None:
        self.folder = folder
        self.process = process
        self.manifest = folder / (f"pairs.{process}.jsonl" if process else MANIFEST)
        self._begun = folder / f".pairs.{process}.begun"  # the name of the pair whose files are being written
        if process:
            self.rows = {Path(row["image"]).stem: row for row in read_jsonl(folder / MANIFEST)}
            return
        rows = self._require_own()
        if rows and not resume:
            raise InputError(f"--out {folder}: already holds {len(rows)} pairs; name another folder")
        if not resume and any(_pictures(folder)):
            raise InputError(f"--out {folder}: already holds images; name another folder")
        self.rows = {name: row for name, row in rows.items() if all(path.exists() for path in _files(folder, name))}
        with writing(f"--out {folder}: the folder"):
            mark(folder, "pairs")
            for kind in KINDS:
                (folder / kind).mkdir(parents=True, exist_ok=True)
            self._clear(rows.keys() - self.rows.keys())
            write_jsonl(self.manifest, self.rows.values())
            self._forget_parts()

    def _require_own(self) -> dict[str, dict[str, Any]]:
        """The rows by name, of a folder that is ours; nothing is changed before it is known to be."""
        if (self.folder / "shards").is_dir():
            raise InputError(f"--out {self.folder}: holds pairs in shards (--format webdataset); name another folder")
        rows = read_rows(self.folder)
        known = marked_by(self.folder) is not None or written_earlier(self.folder)
        taken = (self.folder / MANIFEST).exists() or (self.folder / INPUTS).exists() or any(_pictures(self.folder))
        if taken and not known:
            raise InputError(f"--out {self.folder}: holds files that this program did not write; name another folder")
        return rows

    def _clear(self, incomplete: set[str]) -> None:
        """Remove what a killed writer left: files of a pair that was begun, or whose row tells that it was whole
        once."""
        notes = list(self.folder.glob(".pairs.*.begun"))
        begun = {text[:-1] for text in (note.read_text(encoding="utf-8") for note in notes) if text.endswith("\n")}
        for name in (begun - self.rows.keys()) | incomplete:
            for path in _files(self.folder, name):
                path.unlink(missing_ok=True)
        for kind in KINDS:
            for path in (self.folder / kind).glob(".*.png"):
                if re.fullmatch(r"\.\d+\..+\.png", path.name):  # was being written
                    path.unlink()
        for path in (*notes, *self.folder.glob(f".*.{MANIFEST}")):
            path.unlink()

    def _forget_parts(self) -> None:
        for path in self.folder.glob("pairs.*.jsonl"):
            path.unlink()

    @property
    def done(self) -> Set[str]:
        """Names of the pairs that are complete."""
        return self.rows.keys()

    def write(self, name: str, image: Pixels, mask: AnyMask, prompt: str, extra: dict[str, Any]) -> None:
        """Add a pair: image uint8 (H, W, 3), mask boolean (H, W) or a label map uint8 (H, W); kept without loss.

        Raises:
            InputError: the disk is full or cannot be written to, or another file has the name of one of these.
        """
        with writing(f"{self.folder}: pair {name}"):
            pictures = encoded(image, mask)
        self.add(name, *pictures, {"prompt": prompt, **extra})

    def add(self, name: str, image: bytes, mask: bytes, extra: dict[str, Any]) -> None:
        """Add a pair of PNG files, as their contents; errors as in `write`."""
        row = {"image": f"images/{name}.png", "mask": f"masks/{name}.png", **extra}
        with writing(f"{self.folder}: pair {name}"):
            self._begin(name)
            for path, content in zip(_files(self.folder, name), (image, mask), strict=True):
                _save(path, content)
            with self.manifest.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self.rows[name] = row

    def _begin(self, name: str) -> None:
        """Note that the files of this name are ours, unless they are there already: then they are, or must be, the
        same."""
        if not any(path.exists() for path in _files(self.folder, name)):
            self._begun.write_text(f"{name}\n", encoding="utf-8")

    def flush(self) -> None:
        """Nothing is held back: a pair is there when `write` returns. (`ShardWriter` has something to do here.)"""

    def close(self) -> None:
        """Sort the manifest by name, bring the other processes' lines into it, and write `metadata.jsonl` after it.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        if self.process:
            return
        with writing(str(self.manifest)):
            self.rows |= read_rows(self.folder)
            rows = [self.rows[name] for name in sorted(self.rows)]
            write_jsonl(self.manifest, rows)
            write_jsonl(self.folder / METADATA, map(_metadata, rows))
            self._forget_parts()
            for path in self.folder.glob(".pairs.*.begun"):
                path.unlink()

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.close()


def encoded(image: Pixels, mask: AnyMask) -> tuple[bytes, bytes]:
    """The PNG files of a pair, image (H, W, 3) and mask (H, W), as their contents: what takes the time of writing."""
    return png(Image.fromarray(image)), png(Image.fromarray(stored_mask(mask)))


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `metadata.jsonl`. All have the same keys, as a table has."""
    return {
        "file_name": row["image"],
        "mask_file_name": row["mask"],
        "prompt": row.get("prompt"),
        "synthetic": bool(row.get("synthetic", False)),
    }


def written_earlier(folder: Path) -> bool:
    """Whether a folder that bears no mark is one of pairs by an earlier version of this package.

    Every row of its `pairs.jsonl` then says where its pair comes from, as only this package does; there may be none
    yet, where there is no picture either.
    """
    if not (folder / MANIFEST).is_file():
        return False
    try:
        rows = list(_rows(folder))
    except InputError:
        return False
    if not rows:
        return (folder / MANIFEST).stat().st_size == 0 and not any(_pictures(folder))
    return all(_in_our_place(row) and made_here(row) for row in rows)


def made_here(row: dict[str, Any]) -> bool:
    """Whether a pair's row tells that a command of this package drew it, pasted it or invented it, and from what."""
    drawn = {"checkpoint", "seed", "sampler", "source_mask"} <= row.keys() and isinstance(row["checkpoint"], str)
    pasted = row.get("method") == "copy-paste" and {"seed", "target", "source"} <= row.keys()
    invented = isinstance(row.get("phantom"), dict) and row["phantom"].keys() == {"seed", "index"}
    return (row.get("synthetic") is True and (drawn or pasted)) or invented


def _in_our_place(row: dict[str, Any]) -> bool:
    """Whether a row names its files as `PairWriter` does."""
    name = Path(str(row.get("image"))).stem
    return row.get("image") == f"images/{name}.png" and row.get("mask") == f"masks/{name}.png"


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of a folder that a `PairWriter` wrote, or is writing, by their pairs' names.

    Raises:
        InputError: a manifest is damaged, or names files as no `PairWriter` does.
    """
    rows = list(_rows(folder))
    if not all(map(_in_our_place, rows)):
        raise InputError(f"--out {folder}: holds files that this program did not write; name another folder")
    return {Path(row["image"]).stem: row for row in rows}


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all processes."""
    for file in (folder / MANIFEST, *sorted(folder.glob("pairs.*.jsonl"))):
        if file.exists():
            yield from read_jsonl(file)


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    """The image and the mask of a pair."""
    return folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"


def _pictures(folder: Path) -> Iterator[Path]:
    """What lies beside the manifest, but for what was being written."""
    for kind in KINDS:
        yield from (path for path in (folder / kind).glob("*") if not path.name.startswith("."))


def _save(path: Path, content: bytes) -> None:
    """Write a picture; one that is there already must be the same, and stays."""
    if not path.exists():
        write_whole(path, lambda temporary: temporary.write_bytes(content))
        return
    if path.read_bytes() != content:
        raise InputError(f"{path}: is there already, is another picture, and is not in {MANIFEST}; move it away")


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Say in one line what could not be written, and why."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} cannot be written ({error.strerror or error})") from None
