"""The `check` command: what is in a data folder, how it is read, and everything that is wrong with it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.decoding import Decoding, MaskSource, spread
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.layouts import Listing
from siamese_diffusion.data.layouts.listing import seen_in
from siamese_diffusion.data.looks import Facts, Problem, look
from siamese_diffusion.data.lost import first_keeping
from siamese_diffusion.errors import InputError, printable
from siamese_diffusion.progress import track

MANY = 0.8
"""Share of the masks that says something of the whole set."""
ALIKE = 0.5
"""Share of the masks that are one and the same, above which that is told."""
FEWEST = 4
"""So many equal masks are no chance."""
LAID = {
    "turned": "turned as their images' EXIF orientation says, since they lie on the stored pixels",
    "cut": "a pixel or two larger or smaller than their images: cut, or the last row repeated",
    "resized": "at another size than their images, in one ratio: resized",
}


@dataclass(frozen=True)
class Report:
    """What `check` found. Sizes are (width, height) in pixels; coverage is the lesion's share of the image."""

    folder: str
    layout: str
    pairs: int
    splits: dict[str, int]
    sizes: dict[str, tuple[int, int]]
    formats: dict[str, int]
    coverage: dict[str, float]
    masks: str = ""
    """What the values of the masks mean."""
    healthy: int = 0
    """Images with an empty mask."""
    lesions: dict[str, Any] = field(default_factory=dict)
    """`count`, `lost` and `cut_off` at `resolution`, and the first `keeping` resolution, None where there is none."""
    notes: list[str] = field(default_factory=list)
    """What was matched otherwise than by equal names or left out, and how files are read where that is not plain."""
    groups: int = 0
    """Patients, videos and the like, where the folder tells them."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether `train` would take the folder."""
        return not any(problem.fatal for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "usable": self.usable}


def check(data: Path, settings: DataConfig | None = None) -> Report:
    """Read every file of a data folder and list what is wrong; a bad file never stops it.

    Args:
        data: the folder.
        settings: `data` of the settings, as training would have them; default: the defaults.

    Raises:
        InputError: there is no such folder, or nothing in it is a pair of any layout.
    """
    settings = settings or DataConfig()
    folder = DataFolder(data, settings=settings)
    own = folder.require_listing()
    listings = [own, *own.test_sets.values()]
    problems = [problem for listing in listings for problem in _unpaired(listing)]
    pairs = [
        (listing.images[name], listing.masks[name])
        for listing in listings
        for name in sorted(listing.images.keys() & listing.masks.keys())
    ]
    if not pairs and not problems:
        raise InputError(f"{data}: no image-mask pairs; it holds {seen_in(data)}")
    decoding = folder.decoding
    undecided = _undecided(decoding) if pairs else None
    problems += [undecided] if undecided else []
    facts = _look_at_all(decoding, pairs, undecided is None)
    for fact in facts:
        problems += fact.problems
    problems += _twins(facts)
    lists, wrong = _lists(folder)
    problems += wrong
    if not undecided:
        problems += [*_of_the_set(facts), *_of_training(folder, facts, bool(problems), settings)]
    return _report(folder, own.layout, lists, facts, problems, undecided is None)


def _look_at_all(decoding: Decoding, pairs: Sequence[tuple[Path, MaskSource]], codable: bool) -> list[Facts]:
    workers = min(32, (os.cpu_count() or 1) + 1)
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda pair: look(decoding, pair[0], pair[1], codable), pairs)
        return list(track(found, "checking", len(pairs)))


def _undecided(decoding: Decoding) -> Problem | None:
    """Why the masks have no meaning that all agree on."""
    try:
        assert decoding.coding
    except InputError as error:
        file, _, detail = str(error).partition(": ")
        return Problem("mask values", file, detail, fatal=True)
    return None


def _of_the_set(facts: Sequence[Facts]) -> Iterator[Problem]:
    """What only all masks together show."""
    marked = [fact for fact in facts if fact.shape]
    framed = [fact for fact in marked if fact.framed]
    if len(marked) > 1 and len(framed) >= MANY * len(marked):
        detail = (
            f"{len(framed)} of {len(marked)} masks mark most of the image and its rim; "
            "is the lesion dark? data.invert=true"
        )
        yield Problem("inverted", str(framed[0].mask.path), detail)
    shapes = Counter(fact.shape for fact in marked)
    shape, times = shapes.most_common(1)[0] if shapes else ("", 0)
    if times >= FEWEST and times > ALIKE * len(marked):
        first = next(fact for fact in marked if fact.shape == shape)
        detail = f"{times} of {len(marked)} masks are the same; is it the field of view, and not a lesion?"
        yield Problem("identical masks", str(first.mask.path), detail)
    for fact in facts:
        if fact.flat:
            yield Problem("flat image", str(fact.image), "all its pixels are alike")


def _of_training(folder: DataFolder, facts: Sequence[Facts], known: bool, settings: DataConfig) -> Iterator[Problem]:
    """Why `train` would refuse the pairs that it would take; `known`: there are problems that may say it already."""
    try:
        chosen = {pair.image.path for pair in folder.pairs(settings.split, settings.limit, settings.limit_seed)}
    except InputError as error:
        if not known:
            file, _, detail = str(error).partition(": ")
            yield Problem("split", file, detail, fatal=True)
        return
    seen = [fact.seen for fact in facts if fact.image in chosen and fact.coverage is not None]
    for what, none in (("empty", not any(some for some, _ in seen)), ("full", all(every for _, every in seen))):
        if seen and none:
            detail = f"every mask that training would take is {what} at data.resolution = {settings.resolution}"
            yield Problem("no lesion", str(folder.path), detail, fatal=True)


def _report(
    folder: DataFolder, layout: str, lists: dict[str, int], facts: list[Facts], problems: list[Problem], decided: bool
) -> Report:
    sizes = sorted((fact.size for fact in facts if fact.size), key=lambda size: size[0] * size[1])
    lesions = _lesions(folder, facts)
    own = folder.require_listing()
    listings = [own, *own.test_sets.values()]
    told = [note for listing in listings for note in listing.notes]
    return Report(
        folder=str(folder.path),
        layout=layout,
        pairs=len(facts),
        splits=lists,
        sizes={"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else {},
        formats=dict(Counter(fact.kind for fact in facts if fact.kind).most_common()),
        coverage=_quantiles([fact.coverage for fact in facts if fact.coverage is not None]),
        masks=_described(folder) if decided and facts else "",
        healthy=sum(fact.coverage == 0 for fact in facts),
        lesions=lesions,
        notes=[*told, *(_notes(folder.decoding, facts) if decided else [])],
        groups=len({group for listing in listings for group in listing.groups.values()}),
        problems=[*problems, *_lost(facts, lesions)],
    )


def _described(folder: DataFolder) -> str:
    """What the masks are, with the names that the folder gives their labels."""
    classes = folder.require_listing().classes
    named = ", ".join(f"{value} {name}" for value, name in sorted(classes.items()))
    return folder.decoding.coding.describe() + (f"; names: {named}" if named else "")


def _lesions(folder: DataFolder, facts: Sequence[Facts]) -> dict[str, Any]:
    """How many lesions there are, how many training would not see, and the first resolution that keeps them."""
    counts = {name: sum(getattr(fact.losses, name) for fact in facts) for name in ("lesions", "lost", "cut_off")}
    settings, decoding = folder.decoding.settings, folder.decoding
    small = [fact for fact in facts if fact.losses.lost > fact.losses.cut_off]

    def first(fact: Facts) -> int | None:
        return first_keeping(decoding.mask(fact.mask, fact.image), settings.resolution, settings.fit)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(first, spread(small)))
    keeping = None if None in found or not found else max(each for each in found if each is not None)
    return {
        "count": counts["lesions"],
        "lost": counts["lost"],
        "cut_off": counts["cut_off"],
        "resolution": settings.resolution,
        "keeping": keeping,
    }


def _notes(decoding: Decoding, facts: Sequence[Facts]) -> list[str]:
    notes = list(decoding.coding.notes) if facts else []
    for done, words in LAID.items():
        count = sum(fact.laid == done for fact in facts)
        notes += [f"{count} of {len(facts)} masks are {words}"] if count else []
    void = [fact.void for fact in facts if fact.void]
    if void:
        mean = 100 * sum(void) / len(facts)
        notes.append(
            f"void: {mean:.1f} % of the pixels, in {len(void)} masks; training and scores take it for background"
        )
    for kind, (low, high) in _levels(decoding).items():
        what = "floating-point" if kind == "float" else "more than 8 bits, integers"
        notes.append(f"images of {what}: black at {low:g}, white at {high:g} in all of them")
    settings = decoding.settings
    oblong = sum(fact.size is not None and fact.size[0] != fact.size[1] for fact in facts)
    if oblong:
        ways = {"squash": "squashed to a square", "pad": "padded with black", "crop": "cut to the square in the middle"}
        others = "; data.fit=pad or data.fit=crop keep their shape" if settings.fit == "squash" else ""
        notes.append(f"{oblong} of {len(facts)} images are not square: {ways[settings.fit]}{others}")
    return notes


def _lost(facts: Sequence[Facts], lesions: dict[str, Any]) -> Iterator[Problem]:
    """Lesions that training would not see."""
    small = lesions["lost"] - lesions["cut_off"]
    if small:
        first = next(fact for fact in facts if fact.losses.lost > fact.losses.cut_off)
        keeping = lesions["keeping"]
        wanted = (
            f"data.resolution={keeping} is the first that keeps them" if keeping else "none up to 2048 keeps them all"
        )
        detail = (
            f"at data.resolution={lesions['resolution']}, {small} of {lesions['count']} lesions keep less than half "
            f"of their pixels; {wanted}"
        )
        yield Problem("lost lesions", str(first.mask.path), detail)
    if lesions["cut_off"]:
        first = next(fact for fact in facts if fact.losses.cut_off)
        detail = f"data.fit=crop cuts off {lesions['cut_off']} of {lesions['count']} lesions"
        yield Problem("lost lesions", str(first.mask.path), detail)


def _levels(decoding: Decoding) -> dict[str, tuple[float, float]]:
    try:
        return decoding.image_levels()
    except InputError:  # told with each image
        return {}


def render(report: Report) -> str:
    """The report as text for a terminal; at most ten files of a kind."""
    lines = [f"{report.folder}: {report.pairs} pairs, layout: {report.layout}"]
    if report.splits:
        lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in report.splits.items()))
    lines += [f"groups: {report.groups}, kept together"] if report.groups else []
    if report.sizes:
        lines.append("sizes: " + ", ".join(f"{name} {w} x {h}" for name, (w, h) in report.sizes.items()))
    if report.formats:
        lines.append("images: " + ", ".join(f"{count} {kind}" for kind, count in report.formats.items()))
    if report.masks:
        lines.append(f"masks: {report.masks}")
    if report.healthy:
        lines.append(f"healthy images (empty masks): {report.healthy} of {report.pairs}")
    if report.coverage:
        lines.append(
            "lesion share of the image: "
            + ", ".join(f"{name} {100 * value:.1f} %" for name, value in report.coverage.items())
        )
    lines += [f"note: {note}" for note in report.notes]
    kinds: dict[tuple[str, bool], list[Problem]] = {}
    for problem in report.problems:
        kinds.setdefault((problem.kind, problem.fatal), []).append(problem)
    for (kind, fatal), found in kinds.items():
        lines.append(f"{'error' if fatal else 'warning'}: {kind}, {len(found)}")
        lines += [f"    {problem.file}: {problem.detail}" for problem in found[:10]]
        if len(found) > 10:
            lines.append(f"    and {len(found) - 10} more (--json lists all)")
    lines.append("no problems" if not kinds else "")
    return "\n".join(lines).rstrip()


def _unpaired(listing: Listing) -> Iterator[Problem]:
    images, masks = listing.images, listing.masks
    for path, detail in listing.broken:
        yield Problem("manifest", printable(path), detail, fatal=True)
    for path in listing.doubled:
        yield Problem("duplicate name", printable(path), "another file has its base name", fatal=True)
    for name in sorted(images.keys() - masks.keys()):
        yield Problem("unpaired", printable(images[name]), "has no mask", fatal=True)
    for name in sorted(masks.keys() - images.keys()):
        yield Problem("unpaired", printable(masks[name].path), "has no image", fatal=True)


def _twins(facts: Sequence[Facts]) -> Iterator[Problem]:
    first: dict[str, Path] = {}
    for fact in facts:
        if fact.digest and fact.digest in first:
            yield Problem("same image", printable(fact.image), f"is the same file as {printable(first[fact.digest])}")
        first.setdefault(fact.digest, fact.image)


def _lists(folder: DataFolder) -> tuple[dict[str, int], list[Problem]]:
    file = str(folder.splits_file)
    try:
        lists = folder.lists or {}
    except InputError as error:
        return {}, [Problem("split", file, str(error).partition(": ")[2], fatal=True)]
    listing = folder.require_listing()
    known = listing.images.keys() & listing.masks.keys()
    problems = [
        Problem("split", file, f"{split} names {name}, which is not there", fatal=True)
        for split, names in lists.items()
        for name in names
        if name not in known
    ]
    where: dict[str, str] = {}
    for split, names in lists.items():
        for name in names:
            if name in where:
                problems.append(Problem("split", file, f"{name} is in {where[name]} and {split}", fatal=True))
            where.setdefault(name, split)
    return {split: len(names) for split, names in lists.items()}, problems


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    names = ("smallest", "quarter", "median", "three quarters", "largest")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).round(4).tolist(), strict=True))
