"""Decide what the values of a folder's masks mean, over all of them.

Design note: nothing is guessed that two readings fit. A rim of 255 around labels, grey that is no edge, colours without
a black among them: each is refused, with the values found and the setting that says what they are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from PIL import ImageColor

from siamese_diffusion.data.census import FEW, INDEX, Census, pooled, shares
from siamese_diffusion.data.classes import entries
from siamese_diffusion.data.coding import LISTED, VOID, Coding
from siamese_diffusion.data.colours import find_colours, is_black
from siamese_diffusion.data.heaps import USUAL
from siamese_diffusion.data.stored import Form
from siamese_diffusion.errors import InputError
from siamese_diffusion.settings import DataConfig, MaskValue

RIM_FROM = 250
"""Values from here on beside small ones are, by custom, a rim that no label covers."""
SMALL = 31
"""Values up to this, beside bright ones, are numbers of labels."""


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
        colours: the masks are in colours, of which 255 is white; else a colour is an index of `palette`, and -1 where
            it is none, or a grey.
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
        InputError: they fit no reading, or several; the line lists the values with their shares, and the setting that
            helps.
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
    if settings.mask_coding == "labels" or _class_values(settings, False):
        return _of_labels(censuses, "grey", settings, names)
    soft = [census for census in censuses if census.soft == ""]
    bad = [census for census in censuses if census.soft]
    if 2 * len(bad) >= len([census for census in censuses if census.marks]):
        reason = bad[0].soft if bad else ""
        if bad:
            _refuse(
                bad, f"are neither labels nor dark and bright ({reason})", "data.mask_coding=binary cuts grey at half"
            )
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
    valued = _class_values(settings, False, palette)
    marks = sorted({*marks, *valued})
    said = settings.mask_coding in ("labels", "palette") or bool(valued)
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
            _refuse(
                censuses, "are too many for labels", "data.mask_coding=labels takes any value but 0 for the lesion's"
            )
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
        _refuse(
            censuses, f"are not the colours of drawn masks: {found}", "give masks, or data.mask_coding=binary for grey"
        )
    wanted = [] if settings.foreground == "any" else parse_values(settings.foreground, True, names, "data.foreground")
    wanted += _class_values(settings, True)
    if exact:
        found = sorted({*found, *wanted})
    black = next((colour for colour in found if is_black(colour)), None)
    if black is None and not wanted:
        _refuse(
            censuses,
            "have no black, so that the background is not known",
            "data.foreground=[COLOUR, ...] says the others",
        )
    background = black if black is not None else next(colour for colour in found if colour not in wanted)
    labels = sorted(colour for colour in found if colour != background)
    table = {background: 0} | {colour: i for i, colour in enumerate(labels, 1)} | dict.fromkeys(void, VOID)
    return Coding("colours", "colour", table, exact=exact)


def _class_values(settings: DataConfig, colours: bool, palette: Mapping[int, int] | None = None) -> list[int]:
    """The stored values that `data.classes` says itself, which some masks, or all of the sample, may not hold."""
    said = [entry.value for entry in entries(settings) if entry.value is not None]
    return [value for value in parse_values(said, colours, {}, "data.classes", palette) if value > 0]


def _palettes_differ(censuses: Sequence[Census]) -> bool:
    """Whether an index has two colours, or black is not the first: the colours mean something then, and not the
    indices."""
    known: dict[int, int] = {}
    for census in censuses:
        for index, colour in census.palette.items():
            if known.setdefault(index, colour) != colour:
                return True
    return any(colour == 0 and index != 0 for index, colour in known.items()) and known.get(0, 0) != 0


def _with_foreground(
    coding: Coding, settings: DataConfig, names: Mapping[str, int], censuses: Sequence[Census]
) -> Coding:
    if settings.foreground == "any":
        return coding
    chosen = set()
    values = parse_values(settings.foreground, coding.form == "colour", names, "data.foreground", coding.palette)
    for entry, value in zip(settings.foreground, values, strict=True):
        label = coding.table.get(value, coding.near(value))
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
