"""Is what a network is tested on also what it was trained on: the same file, a copy of it, a neighbouring frame, or
another image of the same patient.

Design note: the same content in two places is refused where a score is taken (`splits.require_disjoint`). What only
looks alike is told and never refused: two frames of one video look as alike as two patients' X-rays do, and a person
has to say which they are.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.fingerprint import SIGNS, Fingerprint, Match, matches, of_file
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.looks import Problem
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.tars import index, is_member
from siamese_diffusion.errors import printable, refused
from siamese_diffusion.progress import notify, track

SERIES = re.compile(
    r"(?P<series>.*\d)[-_. ]+(?:frame|fr|f|image|img|im|slice|sl|s|t|z)?[-_. ]*\d+", re.IGNORECASE | re.ASCII
)
"""A name that ends in two numbers: `video01_0001`, `TCGA_CS_4941_19960909_12`."""
FRAMES = 3
"""Names a series has on average, at least, where the numbers are those of frames."""
GROUPED = "Say so by `group` in pairs.csv, or a folder each, so that whole groups are held out"


@dataclass(frozen=True)
class Seen:
    """What is known of an image besides its pixels."""

    name: str
    image: Path
    split: str | None
    """None: it is in no list."""
    group: str | None
    digest: str
    """Of its file; empty where it cannot be read."""
    print: Fingerprint | None


def leaks(images: Sequence[Seen]) -> Iterator[Problem]:
    """What the images of a folder share across its splits, or, where it has none, with one another."""
    yield from _same(images)
    splits = {each.split for each in images} - {None}
    if len(splits) > 1:
        yield from _alike_across(images)
        yield from _straddling(images)
    else:
        yield from _alike(images)


def _same(images: Sequence[Seen]) -> Iterator[Problem]:
    first: dict[tuple[str, str | None], Seen] = {}
    known: dict[str, list[Seen]] = defaultdict(list)
    for each in images:
        if each.digest and first.setdefault((each.digest, each.split), each) is each:
            known[each.digest].append(each)  # the first in each split
    for each in images:
        if not each.digest:
            continue
        inside = first[each.digest, each.split]
        earlier = known[each.digest][: known[each.digest].index(inside)]
        for other in [inside] if inside is not each else earlier:
            both = {each.split, other.split}
            apart = f", and they are in {other.split} and {each.split}" if len(both) > 1 else ""
            advice = "; leave one of them out" if apart else ""
            detail = f"is the same file as {printable(other.image)}{apart}{advice}"
            yield Problem("same image", printable(each.image), detail, other=printable(other.image))


def _alike_across(images: Sequence[Seen]) -> Iterator[Problem]:
    found = matches([each.print if each.split else None for each in images], [each.split for each in images])
    for match in sorted(found, key=lambda match: match.distance):
        one, other = images[match.first], images[match.second]
        if one.digest == other.digest:
            continue
        what = "is a copy of" if match.is_copy else "looks like"
        detail = (
            f"in {one.split}, {what} {printable(other.image)} in {other.split} ({match.distance:.0f} of {SIGNS} signs "
            f"differ)"
        )
        kind = "copy in another split" if match.is_copy else "near in another split"
        yield Problem(kind, printable(one.image), detail, other=printable(other.image))


def _straddling(images: Sequence[Seen]) -> Iterator[Problem]:
    """Groups, and series by their names, of which images are in several splits."""
    groups = {each.name: each.group for each in images if each.group is not None}
    series = series_of([each.name for each in images if each.group is None])
    for kind, noun, known in (("group across splits", "group", groups), ("series across splits", "series", series)):
        members: dict[str, list[Seen]] = defaultdict(list)
        for each in images:
            if each.split is not None and each.name in known:
                members[str(known[each.name])].append(each)
        for name, inside in members.items():
            parts = {each.split: each for each in inside}
            if len(parts) > 1:
                counts = ", ".join(f"{sum(each.split == part for each in inside)} in {part}" for part in parts)
                advice = "" if noun == "group" else f"; is that a video or a patient? {GROUPED}"
                first, second, *_ = parts.values()
                yield Problem(
                    kind,
                    printable(first.image),
                    f"is of {noun} {name}, which has {counts}{advice}",
                    other=printable(second.image),
                )


def _alike(images: Sequence[Seen]) -> Iterator[Problem]:
    """One line on images that look like others outside their group: a share drawn at random would part them."""
    found = [
        match
        for match in matches([each.print for each in images], [each.group for each in images])
        if images[match.first].digest != images[match.second].digest
    ]
    if not found:
        return
    closest = min(found, key=lambda match: match.distance)
    one, other = (printable(images[place].image) for place in (closest.first, closest.second))
    count = len({place for match in found for place in (match.first, match.second)})
    many = f"{count} of {len(images)} images look like another"
    detail = f"looks like {other}; {many}. Frames of one video? {GROUPED}"
    yield Problem("near images", one, detail, other=other)


def series_of(names: Iterable[str]) -> dict[str, str]:
    """The series, such as a video, that names end in the frames of; empty where they do not look so."""
    found = {name: match["series"] for name in names if (match := SERIES.fullmatch(name))}
    count = len(set(found.values()))
    return found if count > 1 and len(found) >= FRAMES * count else {}


def warn_of_copies(train: Sequence[Pair], synthetic: Sequence[Pair], tests: Mapping[str, Sequence[Pair]]) -> None:
    """Say, in a line for each test set, how many of its images look like one that a network is trained on.

    Args:
        train: real pairs that are trained on, or pick the best step.
        synthetic: pairs that are trained on besides.
        tests: by the set's name.

    Raises:
        InputError: an image cannot be read.
    """
    if not any(tests.values()):
        return
    everything = [*train, *synthetic, *(pair for pairs in tests.values() for pair in pairs)]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda pair: _known(pair.image.path, pair.image.decoding), everything)
        prints = dict(zip(map(id, everything), track(found, "looking for copies", len(everything)), strict=True))
    for name, pairs in tests.items():
        for what, others in (("a training image", train), ("a synthetic image", synthetic)):
            _tell(name, pairs, what, others, prints)


def _tell(
    name: str, pairs: Sequence[Pair], what: str, others: Sequence[Pair], prints: Mapping[int, Fingerprint | None]
) -> None:
    both = [*others, *pairs]
    found = matches([prints[id(pair)] for pair in both], [0] * len(others) + [1] * len(pairs))
    nearest: dict[int, Match] = {}
    for match in sorted(found, key=lambda match: match.distance):
        nearest.setdefault(match.second, match)
    if not nearest:
        return
    copies = sum(match.is_copy for match in nearest.values())
    listed = ", ".join(
        f"{both[match.second].name} like {both[match.first].name}" for match in list(nearest.values())[:3]
    )
    more = f" and {len(nearest) - 3} more" if len(nearest) > 3 else ""
    notify(
        f"warning: test set {name}: {len(nearest)} of {len(pairs)} images look like {what}, {copies} of them as copies "
        f"do ({listed}{more}); their scores say little of new images"
    )


_prints: dict[tuple[str, int, int], Fingerprint | None] = {}
"""Of files by path, size and time: the stages of a study compare the same ones again and again."""


def _known(path: Path, decoding: Decoding) -> Fingerprint | None:
    try:
        state = path.stat()
    except OSError:  # a member of an archive; or it is told by whoever reads it
        return of_file(path, decoding)
    key = (str(path.absolute()), state.st_size, state.st_mtime_ns)
    if key not in _prints:
        _prints[key] = of_file(path, decoding)
    return _prints[key]


def same_content(seen: Iterable[Pair], tests: Mapping[str, Sequence[Pair]]) -> tuple[str, Pair, Pair] | None:
    """The first test image whose file is that of another pair or holds the same bytes: set, test pair, other pair.

    Files of different sizes differ, so that hardly any has to be read.

    Raises:
        InputError: a file cannot be read.
    """
    paths: dict[Path, Pair] = {}
    sizes: dict[int, list[Pair]] = defaultdict(list)
    for pair in seen:
        if paths.setdefault(pair.image.path.resolve(), pair) is pair:
            sizes[_size(pair.image.path)].append(pair)
    for name, pairs in tests.items():
        for pair in pairs:
            known = paths.get(pair.image.path.resolve())
            if known is not None:
                return name, pair, known
            for other in sizes.get(_size(pair.image.path), ()):
                if _digest(other.image.path) == _digest(pair.image.path):
                    return name, pair, other
    return None


def _size(path: Path) -> int:
    if is_member(path):
        span = index(path.parent).get(path.name)
        return span.size if span is not None else -1
    with refused(printable(path)):
        return path.stat().st_size


def _digest(path: Path) -> str:
    with refused(printable(path)):
        return hash_files([path])
