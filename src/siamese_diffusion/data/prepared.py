"""What `prepare` says of a folder that it wrote, `dataset.json`, and how such a folder is read: as it says, with no
setting.

Design note: settings that told how the original was read do not apply a second time. An inverted mask would be turned
back, and void would be found where there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from siamese_diffusion.config import READING, DataConfig, reading_settings
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.coding import VOID
from siamese_diffusion.data.decoding import plain_settings
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, require_kind, write_json

NAME = "dataset.json"
FORMAT = "siamese-diffusion pairs 1"


class _Content(TypedDict):
    format: str
    masks: str
    classes: dict[str, str]
    void: NotRequired[int]
    complete: bool


@dataclass(frozen=True)
class Prepared:
    """What the masks of a prepared folder hold."""

    labels: bool
    """Masks are label maps, 0 the background; else 0 and 255."""
    classes: Mapping[int, str] = field(default_factory=dict)
    """Names of the labels; where masks are 0 and 255, of what 255 marks, as label 1."""
    void: bool = False
    """`VOID` in a label map is void."""

    def settings(self, settings: DataConfig, folder: Path) -> DataConfig:
        """The settings that read the folder, where a user has set `settings`.

        Raises:
            InputError: `data.foreground` or `data.classes` names what the masks do not hold.
        """
        chosen, classes = settings.foreground, class_names(settings)
        for name in classes:
            if not self.labels or name not in self.classes.values():
                held = ", ".join(self.classes.values()) or "one label without a name"
                raise InputError(f"data.classes = {name}: the masks of {folder} hold {held}; `prepare` wrote them so")
        if not self.labels and chosen != "any":
            _require_known(chosen, self.classes, folder)
        own: dict[str, Any] = {}
        if self.labels:
            own = {"foreground": chosen, "mask_coding": "labels", "void": (VOID,) if self.void else ()}
        return plain_settings(settings).model_copy(update=own)

    def idle(self, settings: DataConfig) -> list[str]:
        """Names of settings that say how files are read and do not apply to the folder."""
        return sorted(reading_settings(settings, READING - {"fit", "foreground", "classes"}))


def read(folder: Path) -> Prepared | None:
    """What a folder's `dataset.json` says; None where there is none, or another program's.

    Raises:
        InputError: it is ours, and damaged or not finished.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except InputError:  # not needed where it is another program's, and `prepare` writes it whole
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    require_kind(content, _Content, str(path))
    if content["masks"] not in ("binary", "labels") or not all(number.isdigit() for number in content["classes"]):
        raise InputError(f"{path}: is not as `prepare` wrote it (masks: binary or labels; classes: names by number)")
    if not content["complete"]:
        raise InputError(f"{folder}: `prepare` has not finished it; the same command with --resume goes on")
    classes = {int(number): name for number, name in content["classes"].items()}
    return Prepared(content["masks"] == "labels", classes, content.get("void") is not None)


def write(folder: Path, prepared: Prepared, more: Mapping[str, Any]) -> None:
    """Write `dataset.json`; `more`: what else it says, for people."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "masks": "labels" if prepared.labels else "binary",
        "classes": {str(number): name for number, name in sorted(prepared.classes.items())},
    }
    if prepared.void:
        content["void"] = VOID
    write_json(folder / NAME, {**content, **more})


def write_classes(folder: Path, names: Sequence[str]) -> None:
    """Say of a folder of pairs whose masks are label maps what their labels are called; nothing for one class."""
    if names:
        write(folder, Prepared(True, dict(enumerate(names, 1))), {"complete": True})


def _require_known(chosen: Sequence[Any], classes: Mapping[int, str], folder: Path) -> None:
    known = set(classes.values())
    for entry in chosen:
        if str(entry) not in known:
            held = ", ".join(sorted(known)) or "one label without a name"
            raise InputError(f"data.foreground = {entry}: the masks of {folder} hold {held}; leave that setting out")
