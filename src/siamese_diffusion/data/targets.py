"""Which label of a folder's masks is which class of `data.classes`."""

from collections.abc import Mapping

import numpy as np

from siamese_diffusion.data.classes import Named, entries
from siamese_diffusion.data.coding import VOID, Coding
from siamese_diffusion.data.deciding import parse_values
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.errors import InputError
from siamese_diffusion.settings import MOST_CLASSES, DataConfig


def wanted(settings: DataConfig, names: Mapping[str, int]) -> list[Named]:
    """The classes of the settings in their order; with "all" every label that the folder names, by number.

    Args:
        settings: `data` of the settings.
        names: what the folder calls its labels.

    Raises:
        InputError: all are asked for, and the folder names fewer than two, or more than a model can tell apart.
    """
    if settings.classes != "all":
        return entries(settings)
    named = [Named(name, None) for name, _ in sorted(names.items(), key=lambda item: item[1])]
    if len(named) < 2:
        has = f"one label alone, {named[0].name}" if named else "no labels"
        raise InputError(
            f"data.classes = all: the folder names {has}; write data.classes=NAME=VALUE,NAME=VALUE, or "
            "data.foreground for one class"
        )
    if len(named) > MOST_CLASSES:
        raise InputError(f"data.classes = all: the folder names {len(named)}; at most {MOST_CLASSES} can be told apart")
    return named


def targets(settings: DataConfig, names: Mapping[str, int], coding: Coding | None) -> Pixels:
    """Label to class, (256,); what is no class is background, 0.

    Args:
        settings, names: as in `wanted`.
        coding: of the masks; None where files or shapes are the classes.

    Raises:
        InputError: see `wanted`; or a class is none of the labels that the masks hold, or the same as another.
    """
    found = np.zeros(256, np.uint8)
    for number, entry in enumerate(wanted(settings, names), 1):
        label = _label_of(entry, names, coding)
        if found[label]:
            raise InputError(f"data.classes = {_said(entry)}: means the label of another class")
        found[label] = number
    return found


def _label_of(entry: Named, names: Mapping[str, int], coding: Coding | None) -> int:
    text = entry.name if entry.value is None else entry.value
    colours, palette = (False, None) if coding is None else (coding.form == "colour", coding.palette)
    if entry.value is None and entry.name not in names:
        held = f"calls its labels {', '.join(names)}" if names else "gives its labels no names"
        raise InputError(
            f"data.classes = {entry.name}: the folder {held}; choose among them, or say the value, "
            f"data.classes={entry.name}=VALUE,..."
        )
    (value,) = parse_values([text], colours, names, "data.classes", palette)
    label = value if coding is None else coding.table.get(value, coding.near(value))
    known = label is not None and 0 < label < VOID and (coding is not None or label in names.values())
    if label is None or not known:
        held = coding.held() if coding is not None else ", ".join(names)
        raise InputError(f"data.classes = {_said(entry)}: the masks hold {held}; choose among them")
    return label


def _said(entry: Named) -> str:
    return entry.name if entry.value is None else f"{entry.name}={entry.value}"
