"""The `check` command: what is in a data folder, how it is read, and everything that is wrong with it."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path, to_path_or_none
from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.checked import Item, Report
from siamese_diffusion.data.decoding import Decoding, spread
from siamese_diffusion.data.findings import (
    files_used,
    listed,
    lost,
    no_lesions,
    of_the_set,
    refusal,
    undecided,
    unpaired,
)
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.layouts.listing import seen_in
from siamese_diffusion.data.leakage import Seen, leaks
from siamese_diffusion.data.looks import Facts, Problem, look
from siamese_diffusion.data.lost import first_keeping
from siamese_diffusion.data.next_step import next_step
from siamese_diffusion.errors import InputError
from siamese_diffusion.progress import track

LAID = {
    "turned": "turned as their images' EXIF orientation says, since they lie on the stored pixels",
    "cut": "a pixel or two larger or smaller than their images: cut, or the last row repeated",
    "resized": "at another size than their images, in one ratio: resized",
}


def check(data: StrPath, settings: Settings | DataConfig = None, report: StrPath | None = None) -> Report:
    """Read every file of a data folder and list what is wrong; a bad file never stops it.

    Args:
        data: the folder.
        settings: as training would have them, or their section `data` alone; default: the defaults.
        report: an HTML page to write besides, with pictures.

    Raises:
        InputError: there is no such folder, nothing in it is a pair of any layout, or `report` is in the folder or a
            file that this command did not write.
    """
    data, report = to_path(data, "DATA"), to_path_or_none(report, "--report")
    settings = settings if isinstance(settings, DataConfig) else to_config(settings).data
    if report is not None:
        from siamese_diffusion.data.check_page import require_free

        require_free(report, data)
    folder = DataFolder(data, settings=settings)
    own = folder.require_listing()
    listings = [own, *own.test_sets.values()]
    problems = [problem for listing in listings for problem in unpaired(listing)]
    items = _items(folder)
    if not items and not problems:
        raise InputError(f"{data}: no image-mask pairs; it holds {seen_in(data)}")
    decoding = folder.decoding
    no_meaning = undecided(decoding) if items else None
    problems += [no_meaning] if no_meaning else []
    facts = _look_at_all(decoding, items, no_meaning is None)
    refused = refusal(folder, settings)
    used = None if refused else files_used(folder, settings)
    for fact in facts:
        read = used is None or fact.image in used
        problems += [each if read else replace(each, fatal=False) for each in fact.problems]
    lists, wrong = listed(folder, settings.split)
    seen = [Seen(item.name, fact.image, item.split, item.group, fact.digest, fact.print)
            for item, fact in zip(items, facts, strict=True)]  # fmt: skip
    problems += [*leaks(seen), *wrong]
    if not no_meaning:
        problems += of_the_set(facts)
        problems += [] if refused else no_lesions(folder, facts, settings)
    if refused and not any(problem.fatal for problem in problems):  # else it is told already, and better
        problems.append(refused)
    masks = _described(folder) if items and not no_meaning else ""
    found = _report(folder, lists, items, facts, problems, masks)
    if report is not None:
        from siamese_diffusion.data.check_page import write_page

        write_page(report, found, folder, items, facts)
    return found


def _items(folder: DataFolder) -> list[Item]:
    own = folder.require_listing()
    try:
        lists = folder.lists or {}
    except InputError:  # told by `listed`
        lists = {}
    splits = {name: split for split, names in reversed(lists.items()) for name in names}
    items = []
    for title, listing in (("", own), *own.test_sets.items()):
        for name in sorted(listing.images.keys() & listing.masks.keys()):
            group = listing.groups.get(name, listing.rows.get(name, {}).get("group"))
            split = "test" if title else splits.get(name, "train" if own.test_sets else None)
            called = f"{title}-{name}" if title else name
            group = None if group is None else str(group)
            items.append(Item(called, listing.images[name], listing.masks[name], split, group))
    return items


def _look_at_all(decoding: Decoding, items: Sequence[Item], codable: bool) -> list[Facts]:
    workers = min(32, (os.cpu_count() or 1) + 1)
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda item: look(decoding, item.image, item.mask, codable), items)
        return list(track(found, "checking", len(items)))


def _report(
    folder: DataFolder,
    lists: dict[str, int],
    items: list[Item],
    facts: list[Facts],
    problems: list[Problem],
    masks: str,
) -> Report:
    sizes = sorted((fact.size for fact in facts if fact.size), key=lambda size: size[0] * size[1])
    lesions = _lesions(folder, facts)
    problems = [*problems, *lost(facts, lesions)]
    own = folder.require_listing()
    listings = [own, *own.test_sets.values()]
    told = [note for listing in listings for note in listing.notes]
    return Report(
        folder=str(folder.path),
        layout=own.layout,
        pairs=len(facts),
        splits=lists,
        sizes={"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else {},
        formats=dict(Counter(fact.kind for fact in facts if fact.kind).most_common()),
        coverage=_quantiles([fact.coverage for fact in facts if fact.coverage is not None]),
        masks=masks,
        healthy=sum(fact.coverage == 0 for fact in facts),
        lesions=lesions,
        notes=[*told, *(_notes(folder.decoding, facts) if masks else [])],
        groups=len({item.group for item in items} - {None}),
        problems=problems,
        next=next_step(folder.path, folder.decoding.settings, problems, lesions["keeping"]),
    )


def _described(folder: DataFolder) -> str:
    """What the masks are, with the names that the folder gives their labels."""
    classes = folder.require_listing().classes
    named = ", ".join(f"{value} {name}" for value, name in sorted(classes.items()))
    return folder.decoding.describe() + (f"; names: {named}" if named else "")


def _lesions(folder: DataFolder, facts: Sequence[Facts]) -> dict[str, Any]:
    """How many lesions there are, how many training would not see, and the first resolution that keeps them."""
    counts = {name: sum(getattr(fact.losses, name) for fact in facts) for name in ("lesions", "lost", "cut_off")}
    settings, decoding = folder.decoding.settings, folder.decoding
    small = [fact for fact in facts if fact.losses.lost > fact.losses.cut_off]

    def first(fact: Facts) -> int | None:
        return first_keeping(decoding.mask(fact.mask, fact.image), settings.resolution, settings.fit)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(first, spread(small)))  # of a sample: each is tried at up to twenty sizes
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


def _levels(decoding: Decoding) -> dict[str, tuple[float, float]]:
    try:
        return decoding.image_levels()
    except InputError:  # told with each image
        return {}


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    names = ("smallest", "quarter", "median", "three quarters", "largest")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).round(4).tolist(), strict=True))
