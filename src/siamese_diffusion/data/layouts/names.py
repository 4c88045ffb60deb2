"""Which mask is whose: names that are equal, that differ by case or Unicode form, or by what all names of a kind have
added.

Design note: what is added is found from the names themselves and holds for the set, so `a_Segmentation.png`, `p1.tiff`
and `21_manual1.gif` are one case. A core that begins or ends in a digit is never cut out of a longer number: `10.png`
is no mask of `1.png`.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from siamese_diffusion.data.images import SUFFIXES
from siamese_diffusion.data.layouts.words import RATERS, plain, says_mask, words
from siamese_diffusion.errors import InputError

SAMPLE = 200
"""Masks that are asked for what their names add; the rule then holds for all."""
_NUMBER = re.compile(r"(.*?)[ _.-]*\(?(\d{1,4})\)?", re.DOTALL)


@dataclass(frozen=True)
class Name:
    """A file's base name, and where it lies: only names of one place can match."""

    place: Hashable
    stem: str

    @cached_property
    def plain(self) -> str:
        """The name in one Unicode form and case, without a second extension (`x.JPG.jpg`)."""
        found = plain(self.stem)
        stem, dot, extension = found.rpartition(".")
        return stem if dot + extension in SUFFIXES else found


@dataclass
class Match:
    """The image of each mask."""

    image: list[int | None]
    """Index of the image, or None."""
    notes: list[str] = field(default_factory=list)
    core_less: bool = False
    """Whether the images' names say nothing (`p01/image.png`), so that their folders name them."""

    @property
    def count(self) -> int:
        """Masks that have an image."""
        return sum(image is not None for image in self.image)


Rule = tuple[str, str]
"""What masks' names have before and after the image's, without a number at the end."""


def match(images: Sequence[Name], masks: Sequence[Name]) -> Match:
    """Find the image of each mask; several masks may have the same one.

    Raises:
        InputError: masks of one image bear different names, and nothing says which are meant.
    """
    exact = {(name.place, name.stem): index for index, name in reversed(list(enumerate(images)))}
    alike = {(name.place, name.plain): index for index, name in reversed(list(enumerate(images)))}
    found = Match([exact.get((name.place, name.stem)) for name in masks])
    taken = set(found.image)
    looser = 0
    for number, name in enumerate(masks):
        if (
            found.image[number] is None
            and (index := alike.get((name.place, name.plain))) is not None
            and index not in taken
        ):
            found.image[number] = index
            taken.add(index)
            looser += 1
    if looser:
        found.notes.append(
            f"{looser} masks were matched to images whose names differ by case, Unicode form or extension"
        )
    if found.count == len(masks):
        return found
    if found.count == 0:
        return _by_what_is_added(images, masks)
    return _numbered_besides(found, images, masks)


def _numbered_besides(found: Match, images: Sequence[Name], masks: Sequence[Name]) -> Match:
    """`a.png` has the mask `a.png`, and `a_1.png`, `a_2.png` besides: all the others must be such, or they stay
    alone."""
    cores = _cores(images, "", "")
    more = {
        number: _fits(name, ("", ""), cores)
        for number, name in enumerate(masks)
        if found.image[number] is None and re.search(r"[ _(-]\d+\)?$", name.plain)
    }
    have = set(found.image)
    if len(more) == found.image.count(None) and all(index in have for index in more.values()):
        for number, index in more.items():
            found.image[number] = index
    return found


def _by_what_is_added(images: Sequence[Name], masks: Sequence[Name]) -> Match:
    best = Match([None] * len(masks))
    for before, after in _affixes([name.plain for name in images]):
        cores = _cores(images, before, after)
        if len(cores) < len(images):
            continue
        found = _by_rules(images, masks, cores, before + after)
        if found.count > best.count:
            best = found
        if best.count == len(masks):
            break
    return best


def _affixes(stems: list[str]) -> list[Rule]:
    """What all images' names may have before and after their cores: nothing first."""
    if len(stems) < 2:
        return [("", "")]
    first = _shared(stems)
    last = _shared([stem[::-1] for stem in stems])[::-1]
    before = re.sub(r"\d+$", "", first)
    after = re.sub(r"^\d+", "", last)
    if len(set(stems)) == 1:  # a folder each: the name is no core
        return [("", ""), (first, "")]
    return list(dict.fromkeys([("", ""), ("", after), (before, ""), (before, after)]))


def _shared(texts: list[str]) -> str:
    """What all texts begin with."""
    low, high = min(texts), max(texts)
    return low[: next((i for i, both in enumerate(zip(low, high, strict=False)) if both[0] != both[1]), len(low))]


def _cores(images: Sequence[Name], before: str, after: str) -> dict[tuple[Hashable, str], int]:
    return {
        (name.place, name.plain.removeprefix(before).removesuffix(after)): index
        for index, name in reversed(list(enumerate(images)))
    }


def _by_rules(images: Sequence[Name], masks: Sequence[Name], cores: dict[tuple[Hashable, str], int], own: str) -> Match:
    """Masks by the commonest rule; then, of the masks left, by others that have a word of masks."""
    found = Match([None] * len(masks))
    used: list[Rule] = []
    owners: dict[int, Rule] = {}
    for rule, votes in _rules(masks, cores):
        told = says_mask(" ".join(rule)) or bool(set(words(" ".join(rule))) & RATERS)
        if not told and votes * (3 if used else 2) < min(len(masks), SAMPLE):
            continue
        new = {number: _fits(name, rule, cores) for number, name in enumerate(masks) if found.image[number] is None}
        new = {number: index for number, index in new.items() if index is not None}
        if not new:
            continue
        for number, index in new.items():
            assert index is not None
            if owners.setdefault(index, rule) != rule:  # parts of one mask are told by numbers alone
                _refuse_two(images[index].stem, owners[index], rule)
            found.image[number] = index
        used.append(rule)
        found.core_less = any(core == "" for _, core in cores)
    _refuse_raters(found, masks, used)
    shown = " and ".join(repr(f"{before}*{after}") for before, after in used)
    if used and used != [("", "")]:
        found.notes.append(f"masks are called like their images with an addition, {shown}")
    elif used and own:
        found.notes.append(f"images are called like their masks with an addition, {own!r}")
    return found


def _rules(masks: Sequence[Name], cores: dict[tuple[Hashable, str], int]) -> list[tuple[Rule, int]]:
    """What masks' names add to images', commonest first, those with a word of masks before others as common."""
    votes: Counter[Rule] = Counter()
    step = max(1, len(masks) // SAMPLE)
    for name in masks[::step]:
        text = name.plain
        lengths = range(len(text), -1, -1)
        for length in lengths:
            fitting = {
                (text[:start], _without_number(text[start + length :]))
                for start in range(len(text) - length + 1)
                if (name.place, text[start : start + length]) in cores and not _cuts_a_number(text, start, length)
            }
            votes.update(fitting)
            if fitting:
                break
    return sorted(votes.items(), key=lambda item: (-item[1], not says_mask(" ".join(item[0])), item[0]))


def _cuts_a_number(text: str, start: int, length: int) -> bool:
    if length == 0:
        return False
    end = start + length
    left = start > 0 and text[start - 1].isdigit() and text[start].isdigit()
    return left or (end < len(text) and text[end - 1].isdigit() and text[end].isdigit())


def _without_number(text: str) -> str:
    """`_mask` of `_mask_1`."""
    numbered = _NUMBER.fullmatch(text)
    return numbered[1] if numbered else text


def _fits(name: Name, rule: Rule, cores: dict[tuple[Hashable, str], int]) -> int | None:
    """The image whose name a mask's has inside by a rule, with a number at the end or without."""
    before, after = rule
    text = name.plain
    if not text.startswith(before):
        return None
    for candidate in (text, _without_number(text)):
        if candidate.endswith(after) and len(candidate) >= len(before) + len(after):
            core = candidate[len(before) : len(candidate) - len(after)]
            if (name.place, core) in cores and (core or says_mask(before + after)):
                return cores[name.place, core]
    return None


def _refuse_two(stem: str, one: Rule, other: Rule) -> None:
    shown = " and ".join("".join((before, stem, after)) for before, after in (one, other))
    raise InputError(
        f"{stem} has two kinds of masks, {shown}; name one with data.masks, for example "
        f"data.masks='**/{one[0]}*{one[1]}.*', or take them for classes: siamese-diffusion prepare --class-files "
        f"{','.join(''.join(rule).strip(' _-.') for rule in (one, other))}"
    )


def _refuse_raters(found: Match, masks: Sequence[Name], used: Sequence[Rule]) -> None:
    """Masks that several people drew of one image are no parts of one mask."""
    if not any(set(words(" ".join(rule))) & RATERS for rule in used):
        return
    first: dict[int, str] = {}
    for name, index in zip(masks, found.image, strict=True):
        if index is not None and index in first:
            raise InputError(
                f"{first[index]} and {name.stem} are masks of one image by several people; name one with data.masks, "
                f"for example data.masks='**/*{first[index][-7:]}.*'"
            )
        if index is not None:
            first[index] = name.stem
