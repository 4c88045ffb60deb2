"""Write a folder of pairs: `images/`, `masks/` and `pairs.jsonl`."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl, write_jsonl, write_whole


class PairWriter:
    """Writes a folder of pairs that may be killed at any moment and gone on with.

    A pair is there once its line is in `pairs.jsonl`, which is written after both files are whole. `close` sorts the
    lines, so an interrupted and resumed folder ends up byte for byte as an undisturbed one.

    Several processes may write one folder: process 0 opens first and closes last; the others keep their lines in
    `pairs.PROCESS.jsonl`, which `close` (or the next writer, where they were killed) brings together.

    Args:
        folder: where to write.
        resume: keep the pairs that are complete; what is torn or stray is removed.
        process: number of this process.

    Raises:
        InputError: the folder holds pairs and `resume` is false, it holds files that no `PairWriter` wrote, or it
            cannot be written to.
    """

    def __init__(self, folder: Path, resume: bool = False, process: int = 0) -> None:
        self.folder = folder
        self.process = process
        self.manifest = folder / (f"pairs.{process}.jsonl" if process else "pairs.jsonl")
        if process:
            self.rows = {Path(row["image"]).stem: row for row in read_jsonl(folder / "pairs.jsonl")}
            return
        if (folder / "shards").is_dir():
            raise InputError(f"--out {folder}: holds pairs in shards (--format webdataset); name another folder")
        rows = self._all_rows()
        self._refuse_foreign(rows)
        if rows and not resume:
            raise InputError(f"--out {folder}: already holds {len(rows)} pairs; add --resume, or name another folder")
        if not resume and folder.is_dir() and any((folder / kind).is_dir() for kind in ("images", "masks")):
            raise InputError(f"--out {folder}: already holds images; add --resume, or name another folder")
        self.rows = {
            Path(row["image"]).stem: row
            for row in rows
            if (folder / row["image"]).exists() and (folder / row["mask"]).exists()
        }
        with writing(f"--out {folder}: the folder"):
            for kind in ("images", "masks"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                for path in (folder / kind).glob("*.png"):
                    if path.stem not in self.rows:
                        path.unlink()
            for path in folder.glob(f".*.{self.manifest.name}"):
                path.unlink()
            write_jsonl(self.manifest, self.rows.values())
            self._forget_parts()

    def _all_rows(self) -> list[dict[str, Any]]:
        files = [self.manifest, *sorted(self.folder.glob("pairs.*.jsonl"))]
        return [row for file in files if file.exists() for row in read_jsonl(file)]

    def _forget_parts(self) -> None:
        for path in self.folder.glob("pairs.*.jsonl"):
            path.unlink()

    def _refuse_foreign(self, rows: list[dict[str, Any]]) -> None:
        """Strays are deleted, so nobody's own data may pass for them: our manifest is there before any picture is."""
        ours = all(
            row.get("image") == f"images/{name}.png" and row.get("mask") == f"masks/{name}.png"
            for row in rows
            for name in [Path(str(row.get("image"))).stem]
        )
        pictures = [path for kind in ("images", "masks") for path in (self.folder / kind).glob("*")]
        if not ours or (pictures and not self.manifest.exists()):
            raise InputError(f"--out {self.folder}: holds files that this program did not write; name another folder")

    @property
    def done(self) -> set[str]:
        """Names of the pairs that are complete."""
        return set(self.rows)

    def write(self, name: str, image: Pixels, mask: Mask, prompt: str, extra: dict[str, Any]) -> None:
        """Add a pair: image uint8 (H, W, 3), mask boolean (H, W), both kept without loss.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        row = {"image": f"images/{name}.png", "mask": f"masks/{name}.png", "prompt": prompt, **extra}
        with writing(f"{self.folder}: pair {name}"):
            for key, pixels in (("image", image), ("mask", mask.astype(np.uint8) * 255)):
                picture = Image.fromarray(pixels)
                write_whole(self.folder / row[key], picture.save)
            with self.manifest.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self.rows[name] = row

    def flush(self) -> None:
        """Nothing is held back: a pair is there when `write` returns. (`ShardWriter` has something to do here.)"""

    def close(self) -> None:
        """Sort the manifest by name, and bring the other processes' lines into it.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        if self.process:
            return
        with writing(str(self.manifest)):
            self.rows |= {Path(row["image"]).stem: row for row in self._all_rows()}
            write_jsonl(self.manifest, [self.rows[name] for name in sorted(self.rows)])
            self._forget_parts()

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.close()


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Say in one line what could not be written, and why."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} cannot be written ({error.strerror or error})") from None
