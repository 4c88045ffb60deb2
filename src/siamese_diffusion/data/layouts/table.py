"""Tables of paths: CSV and TSV files, and the `metadata.jsonl` or `metadata.csv` of the Hugging Face hub."""

import csv
import io
from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.images import SUFFIXES
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.paths import Paths, say_left_out
from siamese_diffusion.data.layouts.rows import Row, columns, listing_of
from siamese_diffusion.data.layouts.words import SPLIT_ORDER, SPLITS, words
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl

FIRST = "pairs.csv"
"""The table that has it where there are several."""


def read(folder: Path) -> Listing | None:
    """The pairs of a folder's table; of several, those called like splits are the splits.

    Raises:
        InputError: a table cannot be read, or several name different pairs.
    """
    files = sorted(path for path in folder.iterdir() if _is_table(path))
    if any(path.name == FIRST for path in files):
        files = [folder / FIRST]
    found = {path: listing for path in files if (listing := read_table(path)) is not None}
    if len(found) < 2:
        return next((say_left_out(listing) for listing in found.values()), None)
    splits = {path: next((SPLITS[word] for word in words(path.stem) if word in SPLITS), None) for path in found}
    if len(set(splits.values()) - {None}) < len(found):
        return say_left_out(_same(found))
    return say_left_out(merge({str(splits[path]): listing for path, listing in found.items()}, "tables of paths"))


def read_table(path: Path) -> Listing | None:
    """The pairs that a table names; None where no two columns are files.

    Raises:
        InputError: it cannot be read.
    """
    rows, first_line = (read_jsonl(path), 1) if path.suffix == ".jsonl" else _read_csv(path)
    paths = Paths(path.parent)
    chosen = columns(rows, paths) if rows else []
    paths.loose = 0
    if not chosen:
        return None
    if len({image for image, _ in chosen}) == 1 and len(chosen) > 1:
        raise InputError(
            f"{path}: columns {' and '.join(mask for _, mask in chosen)} all name masks; name the one that is meant "
            f"'mask'"
        )
    return listing_of(rows, chosen[0], paths, path, f"table of paths, {path.name}", first_line)


def merge(parts: dict[str, Listing], layout: str) -> Listing:
    """One listing of several, which are splits; names that two of them have begin with their split's."""
    names = [name for part in parts.values() for name in part.images]
    apart = len(set(names)) < len(names)
    whole = Listing(layout, {}, {})
    for split in sorted(parts, key=SPLIT_ORDER.index):
        part = parts[split]
        called = {name: f"{split}-{name}" if apart else name for name in [*part.images, *part.masks]}
        whole.images.update({called[name]: path for name, path in part.images.items()})
        whole.masks.update({called[name]: mask for name, mask in part.masks.items()})
        whole.rows.update({called[name]: row for name, row in part.rows.items() if name in called})
        whole.groups.update({called[name]: group for name, group in part.groups.items() if name in called})
        whole.doubled.extend(part.doubled)
        whole.broken.extend(part.broken)
        whole.test_sets.update(part.test_sets)
        if whole.classes and part.classes and whole.classes != part.classes:
            raise InputError(f"{layout}: {split} names other classes than the splits before it: {part.classes}")
        whole.classes.update(part.classes)
        whole.notes.extend(note for note in part.notes if note not in whole.notes)
        whole.splits[split] = sorted(called[name] for name in part.images)
    return whole if whole.splits.keys() != {"train"} else replace(whole, splits={})


def _same(found: dict[Path, Listing]) -> Listing:
    """The first of tables that name the same pairs.

    Raises:
        InputError: they name different ones.
    """
    first, *others = found
    for other in others:
        if (found[first].images, found[first].masks) != (found[other].images, found[other].masks):
            raise InputError(f"{first} and {other.name} name different pairs; call the one that is meant {FIRST}")
    return found[first]


def _is_table(path: Path) -> bool:
    known = path.suffix.lower() in (".csv", ".tsv") or path.name == "metadata.jsonl"
    return known and not path.name.startswith(".") and path.is_file()


def _read_csv(path: Path) -> tuple[list[Row], int]:
    """Rows by the names of the columns, "0", "1" ... without a heading; and the line of the first."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    try:
        head = text.splitlines()[0] if text.strip() else ""
        between = max(",;\t|", key=head.count)
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=between) if any(line)]
    except csv.Error as error:
        raise InputError(f"{path}: not a table that can be read ({error})") from None
    if not lines:
        return [], 1
    if any(Path(cell.strip().replace("\\", "/")).suffix.lower() in SUFFIXES for cell in lines[0]):
        return [{str(i): cell for i, cell in enumerate(line)} for line in lines], 1
    heading = [name.strip() for name in lines[0]]
    return [dict(zip(heading, line, strict=False)) for line in lines[1:]], 2
