"""What one browser tab has drawn: images with their masks on disk, which are kept, and what was set.

A desk is a folder. A page that is loaded again finds it as it was.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typing_extensions import TypedDict

from siamese_diffusion.claim import marked_by
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, write_json, write_whole
from siamese_diffusion.lock import hold
from siamese_diffusion.pictures import png

_one_at_a_time = threading.RLock()
"""Handlers run in threads, and one process has a workspace."""


class Row(TypedDict):
    """A drawn image."""

    name: str
    mask: str
    """Name of its mask."""
    seed: int
    dice: float | None
    """Of the mask that the network sees with the one asked for."""
    prompt: str
    origin: dict[str, Any]
    """What `sample` notes of a pair."""
    kept: bool
    saved: str | None
    """Name of the folder that it was saved to."""


class State(TypedDict):
    """What `desk.json` holds."""

    settings: dict[str, Any]
    masks: int
    """How many masks were drawn for."""
    rows: list[Row]


class Desk:
    """The folder `folder`, which need not exist before something is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """Of the tab."""
        return self.folder.name

    def state(self) -> State:
        """What is there.

        Raises:
            InputError: `desk.json` is damaged.
        """
        path = self.folder / "desk.json"
        if not path.exists():
            return {"settings": {}, "masks": 0, "rows": []}
        found: State = read_json(path, State)
        return found

    def _change(self, change: Callable[[State], object]) -> State:
        with _one_at_a_time:
            state = self.state()
            change(state)
            write_json(self.folder / "desk.json", state)
            return state

    def set(self, **settings: Any) -> None:
        """Note settings of the page."""
        self._change(lambda state: state["settings"].update(settings))

    def save_sketch(self, labels: Pixels) -> None:
        """Note the mask that is being painted, uint8 (S, S): 0 is background."""
        with _one_at_a_time:
            _save(self.folder / "sketch.png", labels)

    def sketch(self) -> Pixels | None:
        """That mask; None where nothing was painted yet."""
        path = self.folder / "sketch.png"
        if not path.exists():
            return None
        with Image.open(path, formats=["PNG"]) as picture:
            return np.array(picture.convert("L"))

    def begin(self, mask: Mask) -> tuple[str, Path]:
        """Name and file of a mask (R, R) to draw for; what was drawn before and not kept goes."""

        def change(state: State) -> None:
            for row in state["rows"]:
                if not row["kept"] and row["saved"] is None:
                    for kind in ("images", "seen"):
                        (self.folder / kind / f"{row['name']}.png").unlink(missing_ok=True)
            state["rows"] = [row for row in state["rows"] if row["kept"] or row["saved"] is not None]
            state["masks"] += 1

        name = f"{self.name[:6]}-{self._change(change)['masks']:03d}"
        path = self.folder / "masks" / f"{name}.png"
        _save(path, mask.astype(np.uint8) * 255)
        return name, path

    def add(self, row: Row, image: Pixels, seen: Mask | None) -> None:
        """Note an image (R, R, 3) that was drawn, and the mask that the network sees in it."""
        _save(self.folder / "images" / f"{row['name']}.png", image)
        if seen is not None:
            _save(self.folder / "seen" / f"{row['name']}.png", seen.astype(np.uint8) * 255)
        self._change(lambda state: state["rows"].append(row))

    def latest(self) -> list[Row]:
        """The images of the mask that was drawn for last."""
        state = self.state()
        last = f"{self.name[:6]}-{state['masks']:03d}"
        return [row for row in state["rows"] if row["mask"] == last]

    def kept(self) -> list[Row]:
        """What is kept and not saved yet."""
        return [row for row in self.state()["rows"] if row["kept"] and row["saved"] is None]

    def keep(self, name: str, kept: bool) -> None:
        """Keep an image, or not.

        Raises:
            InputError: there is no such image.
        """

        def change(state: State) -> None:
            for row in state["rows"]:
                if row["name"] == name:
                    row["kept"] = kept
                    return
            raise InputError(f"{name}: is not on this page any more; load it again")

        self._change(change)

    def read(self, row: Row) -> tuple[Pixels, Mask, Mask | None]:
        """Image (R, R, 3), the mask asked for, and the mask that the network sees, None without one."""
        image = np.array(Image.open(self.folder / "images" / f"{row['name']}.png").convert("RGB"))
        seen = self.folder / "seen" / f"{row['name']}.png"
        return image, _mask(self.folder / "masks" / f"{row['mask']}.png"), _mask(seen) if seen.exists() else None

    def save_kept(self, out: Path) -> int:
        """Write what is kept as a folder of pairs, or add it to one that was saved before; returns how many.

        Raises:
            InputError: nothing is kept, or `out` is not such a folder.
        """
        rows = self.kept()
        if not rows:
            raise InputError("nothing is kept yet: tick Keep below an image first")
        if marked_by(out) not in (None, "pairs"):
            raise InputError(f"{out.name}: holds what `{marked_by(out)}` wrote; give another name")
        with _one_at_a_time, hold(out), PairWriter(out, resume=True) as writer:
            for row in rows:
                if row["name"] not in writer.done:
                    image, mask, _ = self.read(row)
                    writer.write(row["name"], image, mask, row["prompt"], row["origin"])
        self._saved([row["name"] for row in rows], out.name)
        return len(rows)

    def _saved(self, names: Sequence[str], folder: str) -> None:
        def change(state: State) -> None:
            for row in state["rows"]:
                if row["name"] in names:
                    row["saved"] = folder

        self._change(change)


def _save(path: Path, pixels: Pixels) -> None:
    content = png(Image.fromarray(pixels))
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def _mask(path: Path) -> Mask:
    with Image.open(path, formats=["PNG"]) as picture:
        return np.asarray(picture.convert("L")) >= 128
