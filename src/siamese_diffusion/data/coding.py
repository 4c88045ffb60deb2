"""What the values of a folder's masks mean, decided over all of them: which value is which label, what is lesion, or void.

Design note: nothing is guessed that two readings fit. A rim of 255 around labels, grey that is no edge, colours without a
black among them: each is refused, with the values found and the setting that says what they are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from siamese_diffusion.data.census import FEW, INDEX, Census, pooled, shares
from siamese_diffusion.data.colours import find_colours, is_black, nearest_colour, strays
from siamese_diffusion.data.heaps import USUAL, cut_at, not_two_heaps
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.stored import Form, Stored, hexadecimal
from siamese_diffusion.errors import InputError
from siamese_diffusion.settings import DataConfig, MaskValue

VOID = 255
"""In a label map: a pixel that its mask says nothing about."""
RIM_FROM = 250
"""Values from here on beside small ones are, by custom, a rim that no label covers."""
SMALL = 31
"""Values up to this, beside bright ones, are numbers of labels."""
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

    def describe(self) -> str:
        """In words, for `check`."""
        named = {label: self._name(value) for value, label in sorted(self.table.items(), reverse=True)}
        labels = [named[label] for label in sorted(named) if label not in (0, VOID)]
        if self.kind == "binary":
            marks = " or ".join(map(str, self.marks)) or "no other"
            text = "binary, " + ("grey cut at half" if self.soft else f"0 and {marks}")
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
                f"; lesion: {', '.join(lesion)}" if self.foreground is not None else "; all are lesion" * (len(labels) > 1)
            )
        void = [self._name(value) for value, label in sorted(self.table.items()) if label == VOID]
        return text + (f"; void: {', '.join(void)}" if void else "") + ("; inverted" if self.invert else "")

    def _name(self, value: int) -> str:
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
        listed = ", ".join(self._name(value) for value in strange[:8]) + (" ..." if len(strange) > 8 else "")
        known = ", ".join(self._name(value) for value in sorted(self.table)[:8])
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
            if (lost > 0.3 * marked and lost > 0.005 * stored.values.size) or (self.exact and not stored.lossy and lost):
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


def parse_values(
    entries: Sequence[MaskValue],
    colours: bool,
    names: Mapping[str, int],
    option: str,
    palette: Mapping[int, int] | None = None,
) -> list[int]:
    """Stored values that entries of `data.void` or `data.foreground` mean, one for each entry.

    Args:
        entries: values, colours, or names.
        colours: the masks are in colours, of which 255 is white; else a colour is an index of `palette`, and -1 where it is
            none, or a grey.
        names: what the folder calls values.
        option: for the error.
        palette: index to colour.

    Raises:
        InputError: an entry is neither a value, nor a colour, nor a name of the folder's.
    """
    found = []
    for entry in entries:
        text = str(entry).strip()
        if text in names:
            found.append(names[text])
            continue
        try:
            number = int(float(text))
            found.append(number * 0x010101 if colours else number)
        except ValueError:
            try:
                red, green, blue = ImageColor.getrgb(text)[:3]
            except ValueError:
                known = f" or a label's name ({', '.join(names)})" if names else ""
                raise InputError(f"{option} = {text}: expected a value, a colour as '#ff0000'{known}") from None
            colour = (red << 16) + (green << 8) + blue
            index = next((index for index, known in (palette or {}).items() if known == colour), None)
            grey = red if red == green == blue else -1
            found.append(colour if colours else grey if index is None else index)
    return found


def decide(censuses: Sequence[Census], settings: DataConfig, names: Mapping[str, int] | None = None) -> Coding:
    """What the values of masks mean.

    Args:
        censuses: of a sample, not empty.
        settings: `data` of the settings.
        names: what the folder calls stored values, where it says.

    Raises:
        InputError: they fit no reading, or several; the line lists the values with their shares, and the setting that helps.
    """
    forms = {census.form for census in censuses}
    wanted = settings.mask_coding
    if wanted == "colours" or (wanted == "auto" and ("colour" in forms or _palettes_differ(censuses))):
        coding = _of_colours(censuses, settings, names or {})
    elif wanted == "palette" or (wanted == "auto" and "palette" in forms):
        coding = _of_labels(_all_of(censuses, "palette"), "palette", settings, names or {})
    elif wanted == "alpha" or (wanted == "auto" and "alpha" in forms):
        coding = Coding("alpha", "alpha", {0: 0, 255: 1}, soft=any(census.soft == "" for census in censuses))
    else:
        coding = _of_grey(censuses, settings, names or {})
    coding = _with_foreground(coding, settings, names or {}, censuses)
    if settings.invert:
        if set(coding.table.values()) - {0, 1, VOID}:
            raise InputError(f"data.invert: masks of two values can be inverted; these hold {shares(censuses)}")
        coding = replace(coding, invert=True)
    marks = sorted(frozenset().union(*(census.marks for census in censuses if census.soft is None)))
    return replace(coding, notes=_differences(censuses), marks=tuple(marks[:LISTED]))


def _all_of(censuses: Sequence[Census], form: Form) -> Sequence[Census]:
    return [census for census in censuses if census.form == form or not census.marks] or censuses


def _of_grey(censuses: Sequence[Census], settings: DataConfig, names: Mapping[str, int]) -> Coding:
    void = dict.fromkeys(parse_values(settings.void, False, names, "data.void"), VOID)
    if settings.mask_coding == "binary":
        total = pooled(censuses)
        if max(total, default=0) < 128 and len(set(total) - {0}) > 1:
            _refuse(censuses, "are no two values, and none is bright", "data.mask_coding=labels takes each for a label")
        return Coding("binary", "grey", {0: 0, 255: 1} | void, soft=True, forced=True)
    if settings.mask_coding == "labels":
        return _of_labels(censuses, "grey", settings, names)
    soft = [census for census in censuses if census.soft == ""]
    bad = [census for census in censuses if census.soft]
    if 2 * len(bad) >= len([census for census in censuses if census.marks]):
        reason = bad[0].soft if bad else ""
        if bad:
            _refuse(bad, f"are neither labels nor dark and bright ({reason})", "data.mask_coding=binary cuts grey at half")
    clean = [census for census in censuses if census.soft is None]
    marks = frozenset().union(*(census.marks for census in clean))
    if marks <= {1, 255}:
        both = next((census for census in clean if census.marks == {1, 255}), None)
        if both is not None:
            _refuse_rim([both, *clean], 255)
        if soft and void:
            _refuse(soft, "have grey edges, where void cannot be told", "leave out data.void")
        dim = any(census.cut is not None and census.cut < USUAL for census in soft)
        return Coding("binary", "grey", {0: 0, 1: 1, 255: 1} | void, soft=bool(soft), dim=dim)
    if soft:
        _refuse(
            [*soft, *clean],
            "are grey at edges in some masks and labels in others",
            "data.mask_coding=binary cuts all at half, data.mask_coding=labels takes each value for a label",
        )
    return _of_labels(clean, "grey", settings, names)


def _of_labels(censuses: Sequence[Census], form: Form, settings: DataConfig, names: Mapping[str, int]) -> Coding:
    palette = {index: colour for census in censuses for index, colour in census.palette.items()}
    void = dict.fromkeys(parse_values(settings.void, False, names, "data.void", palette), VOID)
    kind = "palette" if form == "palette" else "labels"
    marks = sorted(frozenset().union(*(census.marks for census in censuses)))
    said = settings.mask_coding in ("labels", "palette")
    if said and max(marks, default=0) <= INDEX:
        return Coding(kind, form, {value: value for value in range(INDEX + 1)} | void, palette=palette)
    if said and (len(marks) >= VOID - 1 or any(census.form != form for census in censuses)):
        return Coding(kind, form, {0: 0} | void, everything=True)
    if not said:
        small, large = [v for v in marks if v <= INDEX], [v for v in marks if v > INDEX]
        if marks and marks[0] < 0:
            _refuse(censuses, "are partly negative", f"data.void=[{marks[0]}] leaves them out")
        if small and small[0] <= SMALL and large and len(marks) <= FEW:
            if large[0] >= RIM_FROM:
                _refuse_rim(censuses, large[-1])
            _refuse(
                censuses,
                "are small numbers and bright values together",
                "data.mask_coding=labels takes each value for a label, data.void=[VALUE, ...] leaves values out",
            )
        if len(marks) > 1 and settings.foreground == "any" and not any(0 in census.counts for census in censuses):
            _refuse(
                censuses,
                "are nowhere 0, so that the background is not known",
                "data.foreground=[VALUE, ...] says the others",
            )
        if len(marks) > FEW and large:
            _refuse(censuses, "are too many for labels", "data.mask_coding=labels takes any value but 0 for the lesion's")
    numbers = {v: v for v in marks} if max(marks, default=0) <= INDEX else {v: i for i, v in enumerate(marks, 1)}
    if len(numbers) >= VOID:
        return Coding(kind, form, {0: 0} | void, everything=True)
    return Coding(kind, form, {0: 0} | numbers | void, palette=palette)


def _of_colours(censuses: Sequence[Census], settings: DataConfig, names: Mapping[str, int]) -> Coding:
    total: Counter[int] = Counter()
    for census in censuses:
        for value, count in census.counts.items():
            packed = census.palette[value] if census.form == "palette" else value
            total[packed if census.form in ("colour", "palette") else value * 0x010101] += count
    exact = not any(census.lossy for census in censuses) and len(total) <= 2 * FEW
    void = parse_values(settings.void, True, names, "data.void")
    for colour in void:
        total.pop(colour, None)
    found = find_colours(total, exact)
    if isinstance(found, str):
        _refuse(censuses, f"are not the colours of drawn masks: {found}", "give masks, or data.mask_coding=binary for grey")
    wanted = [] if settings.foreground == "any" else parse_values(settings.foreground, True, names, "data.foreground")
    black = next((colour for colour in found if is_black(colour)), None)
    if black is None and not wanted:
        _refuse(
            censuses, "have no black, so that the background is not known", "data.foreground=[COLOUR, ...] says the others"
        )
    background = black if black is not None else next(colour for colour in found if colour not in wanted)
    labels = sorted(colour for colour in found if colour != background)
    table = {background: 0} | {colour: i for i, colour in enumerate(labels, 1)} | dict.fromkeys(void, VOID)
    return Coding("colours", "colour", table, exact=exact)


def _palettes_differ(censuses: Sequence[Census]) -> bool:
    """Whether an index has two colours, or black is not the first: the colours mean something then, and not the indices."""
    known: dict[int, int] = {}
    for census in censuses:
        for index, colour in census.palette.items():
            if known.setdefault(index, colour) != colour:
                return True
    return any(colour == 0 and index != 0 for index, colour in known.items()) and known.get(0, 0) != 0


def _with_foreground(coding: Coding, settings: DataConfig, names: Mapping[str, int], censuses: Sequence[Census]) -> Coding:
    if settings.foreground == "any":
        return coding
    chosen = set()
    values = parse_values(settings.foreground, coding.form == "colour", names, "data.foreground", coding.palette)
    for entry, value in zip(settings.foreground, values, strict=True):
        if coding.form == "colour" and value not in coding.table and not coding.exact:
            near = sorted(coding.table)[int(nearest_colour(np.array([value], np.int32), sorted(coding.table))[0])]
            value = near if not strays(np.array([value], np.int32), [near])[0] else value
        label = coding.table.get(value)
        if label is None or label in (0, VOID):
            raise InputError(f"data.foreground = {entry}: the masks hold {shares(censuses)}; choose among them")
        chosen.add(label)
    return replace(coding, foreground=frozenset(chosen))


def _differences(censuses: Sequence[Census]) -> tuple[str, ...]:
    """What is not the same in all masks, though it is read alike."""
    notes = []
    modes = Counter(census.mode for census in censuses)
    if len(modes) > 1:
        notes.append(
            "masks are stored in several ways: " + ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
        )
    ones, whites = (sum(census.marks == {value} for census in censuses) for value in (1, 255))
    if ones and whites:
        notes.append(f"masks are 0 and 1 in {ones} files, 0 and 255 in {whites}: both are read as lesion")
    soft = sum(census.soft == "" for census in censuses)
    if soft:
        notes.append(f"grey edges (JPEG or interpolation) in {soft} of {len(censuses)} masks: cut at half")
    return tuple(notes)


def _refuse_rim(censuses: Sequence[Census], value: int) -> NoReturn:
    _refuse(
        censuses,
        f"look like labels with a rim of {value} that no label covers",
        f"data.void=[{value}] leaves it out, data.mask_coding=labels takes each value for a label",
    )


def _refuse(censuses: Sequence[Census], what: str, remedy: str) -> NoReturn:
    path: Path = censuses[0].path
    raise InputError(f"{path}: the values of the masks {what}. Found: {shares(censuses)}. {remedy}")
