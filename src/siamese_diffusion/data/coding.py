"""What the values of a folder's masks mean: which value is which label, what is lesion, or void. `deciding` finds
it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.data.census import INDEX
from siamese_diffusion.data.colours import is_black, nearest_colour, strays
from siamese_diffusion.data.heaps import USUAL, cut_at, not_two_heaps
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.stored import Form, Stored, hexadecimal
from siamese_diffusion.errors import InputError

VOID = 255
"""In a label map: a pixel that its mask says nothing about."""
LISTED = 12
"""Labels that `describe` names."""


@dataclass(frozen=True)
class Coding:
    """How the stored values of masks become labels.

    Attributes:
        kind: as `data.mask_coding`, but never "auto".
        form: what the files store.
        table: stored value to label: 0 background, 1 and more, or `VOID`.
        foreground: labels that are lesion; None: all.
        soft: grey between two heaps is cut at half; the table holds for masks of exact values.
        dim: somewhere below 127, since white is darker than that allows.
        forced: grey is cut at half whatever it looks like.
        exact: colours are exact; else each pixel is of the nearest.
        invert: labels 0 and 1 change places.
        everything: any value but 0 is label 1, whatever it is: numbers of objects.
        palette: index to colour, where the files say.
        marks: values but 0 that masks of the sample hold, where they are few.
        notes: what a user should know of the decision, a line each.
    """

    kind: str
    form: Form
    table: Mapping[int, int]
    foreground: frozenset[int] | None = None
    soft: bool = False
    dim: bool = False
    forced: bool = False
    exact: bool = True
    invert: bool = False
    everything: bool = False
    palette: Mapping[int, int] = field(default_factory=dict)
    marks: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def labels(self, stored: Stored) -> Pixels:
        """Label map uint8 (H, W): 0 background, 1 and more, `VOID` apart.

        Raises:
            InputError: the file holds what the others do not; the line names it and the setting.
        """
        found = self._labels(stored)
        if self.invert:
            swap = np.arange(256, dtype=np.uint8)
            swap[[0, 1]] = 1, 0
            found = swap[found]
        return found

    def lesion(self, labels: Pixels) -> Mask:
        """Boolean (H, W): the labels that are lesion. Void is not."""
        if self.foreground is None:
            return np.asarray((labels != 0) & (labels != VOID))
        chosen = np.zeros(256, bool)
        chosen[list(self.foreground)] = True
        return np.asarray(chosen[labels])

    @property
    def plain(self) -> bool:
        """Whether masks are read as they were before there was a choice: above 127, or 1 where nothing is brighter."""
        if self.form != "grey" or self.invert or self.foreground is not None or VOID in self.table.values():
            return False
        if self.dim or self.forced:
            return False
        marks = [value for value in self.table if value]
        bright = bool(marks) and min(marks) > 127 and max(marks) <= 255
        return self.kind == "binary" or (bright and not self.everything)

    @property
    def key(self) -> dict[str, Any]:
        """The decision as JSON."""
        pairs = sorted(self.table.items())
        found: dict[str, Any] = {"kind": self.kind, "values": [list(pair) for pair in pairs]}
        if self.foreground is not None:
            found["foreground"] = sorted(self.foreground)
        return found | {name: True for name in ("invert", "everything", "dim", "forced") if getattr(self, name)}

    def held(self) -> str:
        """The values of labels, for an error."""
        return ", ".join(self.name_of(value) for value, label in sorted(self.table.items()) if label not in (0, VOID))

    def near(self, colour: int) -> int | None:
        """The label of the colour that a colour is as good as, where colours are not exact."""
        if self.form != "colour" or self.exact:
            return None
        one, known = np.array([colour], np.int32), sorted(self.table)
        nearest = known[int(nearest_colour(one, known)[0])]
        return None if strays(one, [nearest])[0] else self.table[nearest]

    def describe(self, all_lesion: bool = True) -> str:
        """In words, for `check`; `all_lesion`: several labels are one class."""
        named = {label: self.name_of(value) for value, label in sorted(self.table.items(), reverse=True)}
        anything = len(self.table) > INDEX  # `data.mask_coding=labels` allows more than there are
        found = {self.table.get(mark) for mark in self.marks} if anything and self.marks else named.keys()
        labels = [named[label] for label in sorted(named) if label not in (0, VOID) and label in found]
        if self.kind == "binary":
            marks = " or ".join(map(str, self.marks))
            text = "binary, " + ("grey cut at half" if self.soft else f"0 and {marks}" if marks else "0 alone")
        elif self.kind == "alpha":
            text = "what is opaque"
        elif self.everything:
            text = "any value but 0"
        else:
            word = {"labels": "label", "palette": "palette index", "colours": "colour"}[self.kind]
            plural = {"palette index": "palette indices"}.get(word, word + "s")
            more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
            text = f"{word if len(labels) == 1 else plural} {', '.join(labels[:LISTED])}{more}"
            lesion = [named[label] for label in sorted(self.foreground or ()) if label in named]
            text += (
                f"; lesion: {', '.join(lesion)}"
                if self.foreground is not None
                else "; all are lesion" * (all_lesion and len(labels) > 1)
            )
        void = [self.name_of(value) for value, label in sorted(self.table.items()) if label == VOID]
        return text + (f"; void: {', '.join(void)}" if void else "") + ("; inverted" if self.invert else "")

    def name_of(self, value: int) -> str:
        """What a stored value is called: itself, or its colour."""
        if self.form == "colour":
            return hexadecimal(value)
        return f"{value} ({hexadecimal(self.palette[value])})" if value in self.palette and value else str(value)

    def _labels(self, stored: Stored) -> Pixels:
        if self.form == "colour":
            return self._of_colours(stored.coloured())
        if self.form == "alpha" and stored.form != "alpha" and not stored.transparent:
            _misfit(stored, "is wholly opaque, and the other masks are drawn by transparency", "alpha")
        if stored.form != self.form and not (set(stored.counts) <= {0} or self._grey_index(stored)):
            _misfit(stored, f"is {_WORDS[stored.form]}, and the other masks are {_WORDS[self.form]}", self.form)
        if self.palette and any(self.palette.get(index, colour) != colour for index, colour in stored.palette.items()):
            _misfit(stored, "its palette has other colours than those of the other masks", "colours")
        present = set(stored.counts)
        if self.everything:
            void = [value for value, label in self.table.items() if label == VOID]
            return np.where(np.isin(stored.values, void), VOID, stored.values != 0).astype(np.uint8)
        if self.kind in ("binary", "alpha") and VOID not in self.table.values():
            return self._of_two(stored, present)
        if present <= set(self.table):
            return _looked_up(stored.values, self.table)
        self._unknown(stored, present)

    def _grey_index(self, stored: Stored) -> bool:
        """Grey values may be indices that were saved without their palette."""
        return self.form == "palette" and stored.form == "grey" and set(stored.counts) <= set(self.table)

    def _of_two(self, stored: Stored, present: set[int]) -> Pixels:
        marks = present - {0}
        exact = not (stored.lossy and marks)
        if exact and len(marks) <= 1 and (marks <= set(self.table) or self.kind == "alpha" or self.forced):
            return np.asarray(stored.values != 0, np.uint8)
        if self.forced:
            return np.asarray(stored.values > (USUAL if stored.values.dtype == np.uint8 else 32767), np.uint8)
        if stored.values.dtype != np.uint8:
            self._unknown(stored, present)
        if stored.share:
            return np.asarray(stored.values > USUAL, np.uint8)
        reason = not_two_heaps(stored.values, stored.counts)
        if reason is None and (stored.lossy or len(marks) > 2 or stored.fractions):
            return np.asarray(stored.values > cut_at(stored.counts), np.uint8)
        self._unknown(stored, present, reason)

    def _unknown(self, stored: Stored, present: set[int], reason: str | None = None) -> NoReturn:
        strange = sorted(present - set(self.table)) or sorted(present)
        listed = ", ".join(self.name_of(value) for value in strange[:8]) + (" ..." if len(strange) > 8 else "")
        known = ", ".join(self.name_of(value) for value in sorted(self.table)[:8])
        what = reason or f"holds {listed}, and the masks of this folder were found to hold {known}"
        _misfit(stored, what, "labels" if self.kind == "labels" else "binary")

    def _of_colours(self, stored: Stored) -> Pixels:
        found = np.array(sorted(stored.counts), np.int32)
        colours = sorted(self.table)
        if set(found.tolist()) <= set(colours):
            labels = np.array([self.table[int(colour)] for colour in found], np.uint8)
        else:
            far = strays(found, colours) if not self.exact else np.ones(len(found), bool)
            lost = sum(stored.counts[int(colour)] for colour in found[far] if int(colour) not in self.table)
            marked = sum(count for colour, count in stored.counts.items() if not is_black(colour))
            if (lost > 0.3 * marked and lost > 0.005 * stored.values.size) or (
                self.exact and not stored.lossy and lost
            ):
                strange = [hexadecimal(int(colour)) for colour in found if int(colour) not in self.table]
                known = ", ".join(map(hexadecimal, colours[:8]))
                _misfit(stored, f"holds {', '.join(strange[:4])}, and the masks of this folder hold {known}", "colours")
            places = nearest_colour(found, colours)
            labels = np.array([self.table[colours[place]] for place in places], np.uint8)
        return np.asarray(labels[np.searchsorted(found, stored.values)])


_WORDS = {"grey": "grey", "palette": "in palette colours", "colour": "in colours", "alpha": "drawn by transparency"}


def _misfit(stored: Stored, what: str, coding: str) -> NoReturn:
    coding = {"grey": "binary", "colour": "colours"}.get(coding, coding)
    raise InputError(
        f"{stored.path}: {what}; data.mask_coding={coding} says how all masks are to be read, or correct this one"
    )


def _looked_up(values: NDArray[Any], table: Mapping[int, int]) -> Pixels:
    if values.dtype == np.uint8:
        every = np.zeros(256, np.uint8)
        for value, label in table.items():
            if 0 <= value < 256:
                every[value] = label
        return np.asarray(every[values])
    keys = np.array(sorted(table))
    labels = np.array([table[int(key)] for key in keys], np.uint8)
    return np.asarray(labels[np.searchsorted(keys, values)])
