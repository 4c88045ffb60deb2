"""The `data` commands: fetch a published data set and leave a folder of pairs.

Downloads go to `OUT.downloads` and go on after any interruption (see `transfer.py`); `OUT` is whole or absent.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import TypedDict

from siamese_diffusion.arguments import StrPath, to_path, to_paths
from siamese_diffusion.data.fetch.catalogue import RELEASES, Archive, Release
from siamese_diffusion.data.fetch.transfer import GiveUpError, part_record, read_note, transfer
from siamese_diffusion.data.fetch.unpack import Limits, find_bsdtar, unpack
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.durable import clear_all
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, whole_folder, write_json, write_text
from siamese_diffusion.progress import notify

_SPARE = 256 << 20


def list_data() -> list[dict[str, Any]]:
    """What `get_data` can fetch: `name`, `title`, `pairs` by split, `bytes` or None, `licence`, `page`, `note`."""
    return [
        {
            "name": release.name,
            "title": release.title,
            "pairs": release.pairs,
            "bytes": _total(release),
            "licence": release.licence,
            "page": release.page,
            "note": release.note,
        }
        for release in RELEASES.values()
    ]


def render_list() -> str:
    """`list_data` as text for a terminal."""
    lines = []
    for row in list_data():
        pairs = " + ".join(f"{count} {name}" if name != "all" else str(count) for name, count in row["pairs"].items())
        mega = (row["bytes"] or 0) / 1e6
        size = f", {mega / 1000:.1f} GB to fetch" if mega > 1000 else f", {mega:.0f} MB to fetch" if mega else ""
        lines.append(f"{row['name']}: {row['title']}")
        lines += [f"    {text}" for text in (f"{pairs} pairs{size}", row["licence"], row["note"], row["page"]) if text]
    return "\n".join(lines)


def get_data(
    name: str,
    out: StrPath,
    accept_licence: bool = False,
    archives: StrPath | Sequence[StrPath] = (),
    keep: bool = False,
) -> dict[str, Any]:
    """Fetch a data set, unpack it, and leave a folder of pairs.

    Args:
        name: one of `list_data`.
        out: gets the pairs, `splits.json` where the data set has splits, the notices that came with it in `notices/`,
            and `source.json`: addresses, checksums and licence. The same call after an interruption goes on; a finished
            one is returned as it is.
        accept_licence: the terms of the data set are accepted; else they are asked for on the terminal, if there is
            one.
        archives: files (or folders, unpacked already) to take instead of downloading anything.
        keep: keep the downloaded archives in `OUT.downloads`; what was put there by hand is kept in any case.

    Returns:
        `name`, `out`, `pairs`, `splits` {name: count}, `files` [{file, address, bytes, sha256}], `licence`.

    Raises:
        InputError: unknown name, licence not accepted, `out` holds something else, no space, no address answers, wrong
            checksum, or an archive that is damaged, unsafe or not this data set.
    """
    out, archives = to_path(out), to_paths(archives, "--archive")
    release = RELEASES.get(name)
    if release is None:
        raise InputError(f"{name}: no such data set; there are {', '.join(RELEASES)}")
    if out.name in ("", ".."):
        raise InputError(f"--out {out}: name a folder that is to be made")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    store = out.with_name(f"{out.name}.downloads")
    if (out / "source.json").exists():
        done = _already(release, out)
        if not archives and store.is_dir():  # killed when all was done but this
            _clear(release, store, keep)
        return done
    _require_empty(out)
    for path in archives:
        if not path.exists():
            raise InputError(f"--archive {path}: no such file or folder")
    _accept(release, accept_licence)
    if not archives:
        for archive in release.archives:
            if not archive.file.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
                find_bsdtar(Path(archive.file))  # told now, not after the download

    given = list(archives)
    to_fetch = 0 if given else (_total(release) or release.unpacked) - _fetched(release, store)
    _require_space(out, release.unpacked + to_fetch)
    files = [_describe(path, None) for path in given if path.is_file()]
    if not given:
        for archive in release.archives:
            path, address = fetch(archive, store, release)
            given.append(path)
            files.append(_describe(path, address))
    _require_empty(out)  # it was, hours ago
    with whole_folder(out) as folder:
        found = _arrange(release, given, folder)
        result = {"name": release.name, "out": str(out), **found, "files": files, "licence": release.licence}
        write_json(folder / "source.json", {**result, "page": release.page, "cite": release.cite})
    if not archives:
        _clear(release, store, keep)
    return result


def _require_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: is not empty; name another folder")


def _clear(release: Release, store: Path, keep: bool) -> None:
    """Remove the archives that were fetched, which have a note beside them, and nothing that was put there by hand."""
    for archive in release.archives:
        path = store / archive.file
        notes = [note for note in (part_record(path), part_record(_part(path))) if note.exists()]
        if notes and not keep:
            path.unlink(missing_ok=True)
        for note in notes:
            note.unlink()
    clear_all(store)
    if any(store.iterdir()):
        notify(f"kept in {store}: {', '.join(sorted(path.name for path in store.iterdir()))}")
    else:
        store.rmdir()


def _part(path: Path) -> Path:
    """Where an archive is written until it is whole."""
    return path.with_name(f"{path.name}.part")


def fetch(archive: Archive, store: Path, release: Release) -> tuple[Path, str | None]:
    """Download `archive` into `store`, or find it there; the file and the address that gave it (None: nobody knows).

    Raises:
        InputError: no address answers with the file, or its checksum is wrong.
    """
    path = store / archive.file
    if path.exists():
        _verify(path, archive, path)
        return path, _address(path)
    store.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    reasons = []
    for address in archive.addresses:
        try:
            transfer(address, part)
        except GiveUpError as reason:
            reasons.append(f"{address}: {reason}")
            continue
        _verify(part, archive, path)
        part.replace(path)
        part_record(part).replace(part_record(path))  # it tells that the file is not the user's
        return path, address
    raise InputError(
        f"{archive.file} could not be fetched ({'; '.join(reasons)}): get it by hand from {release.page}, save it as "
        f"{path} and run the same command again, or give every file of the data set with --archive"
    )


def _address(path: Path) -> str | None:
    """Where an archive came from that an earlier call had fetched; None: it was put there by hand."""
    notes = map(read_note, (part_record(path), part_record(_part(path))))
    return next((note["address"] for note in notes if note is not None), None)


def _verify(path: Path, archive: Archive, final: Path) -> None:
    if archive.sha256 is None:
        return
    digest = _sha256(path)
    if digest != archive.sha256:
        names = (f"{final.name}.wrong{number or ''}" for number in count())
        aside = next(final.with_name(name) for name in names if not final.with_name(name).exists())
        path.replace(aside)
        for note in (part_record(final), part_record(_part(final))):
            note.unlink(missing_ok=True)
        raise InputError(
            f"{archive.file}: SHA-256 is {digest}, expected {archive.sha256}; set aside as {aside}. Run again to "
            f"fetch it anew, or, if the provider has replaced the file, give every file of the data set with --archive"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(path: Path, address: str | None) -> dict[str, Any]:
    return {"file": path.name, "address": address, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _arrange(release: Release, sources: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Fill `folder` with the pairs of archives or unpacked folders; the number of pairs, in all and by split."""
    raw = folder / ".unpacked"
    lists: dict[str, list[str]] = {}
    for number, source in enumerate(sources):
        top = raw / str(number)
        if source.is_dir():
            files, top = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()], source
        else:
            files = unpack(source, top, Limits(release.unpacked))
        for path in sorted(files):
            inside = PurePosixPath(source.stem, *path.relative_to(top).parts)
            target = _target(release, inside)
            if target is None:
                continue
            place = folder / target
            if place.exists():
                raise InputError(f"{source}: {inside} has the name of another file of the data set")
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copyfile(path, place)
            else:
                path.replace(place)
            if target.startswith("images/"):
                lists.setdefault(_split(release, inside), []).append(place.stem)
    if raw.exists():  # not where every source was a folder
        shutil.rmtree(raw)
    if release.split and lists:
        named = {name: sorted(lists[name]) for name in release.pairs if name in lists}
        write_text(folder / "splits.json", json.dumps(named) + "\n")
    return _count(release, sources, folder)


def _target(release: Release, inside: PurePosixPath) -> str | None:
    if inside.name.lower().partition(".")[0] in ("license", "licence", "attribution", "readme"):
        return f"notices/{inside.parts[0]}-{inside.name}"
    return release.place(inside)


def _split(release: Release, inside: PurePosixPath) -> str:
    where = "/".join(inside.parts[:-1]).lower()
    return next((split for word, split in release.split.items() if word in where), "all")


def _count(release: Release, sources: Sequence[Path], folder: Path) -> dict[str, Any]:
    named = ", ".join(str(source) for source in sources)
    expected = ", ".join(archive.file for archive in release.archives)
    try:
        data = DataFolder(folder)
        pairs = len(data.pairs())
        found = {name: len(names) for name, names in (data.lists or {}).items()}
        if data.test_sets:
            found = {"test": len(data.pairs("test"))}
            found |= {"train": pairs} if (folder / "TrainDataset").is_dir() else {}
            pairs = sum(found.values())
    except InputError as error:
        reason = str(error).replace(f"{folder}/", "").removeprefix(f"{folder}: ").partition(";")[0]
        raise InputError(f"{named}: not the whole of {release.name} ({reason}); expected {expected}") from None
    wanted = sum(release.pairs.values())
    if pairs != wanted:
        notify(f"note: {pairs} pairs, where {release.name} is known to have {wanted}")
    return {"pairs": pairs, "splits": found}


class _Source(TypedDict):
    """What a finished `get_data` returned, as its folder keeps it."""

    name: str
    out: str
    pairs: int
    splits: dict[str, int]
    files: list[dict[str, Any]]
    licence: str


def _already(release: Release, out: Path) -> dict[str, Any]:
    try:
        source = read_json(out / "source.json", _Source)
    except InputError:  # another program's
        raise InputError(f"--out {out}: is not empty; name another folder") from None
    if source["name"] != release.name:
        raise InputError(f"--out {out}: holds {source['name']} already; name another folder")
    notify(f"{out} holds {release.name} already")
    return {key: dict(source)[key] for key in _Source.__annotations__}


def _accept(release: Release, accepted: bool) -> None:
    notify(f"{release.title}\n  licence: {release.licence}\n  page:    {release.page}\n  cite:    {release.cite}")
    if accepted:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{release.name}: read the licence above and add --accept-licence to accept it")
    print("Accept these terms? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError(f"{release.name}: the licence was not accepted; nothing was fetched")


def _total(release: Release) -> int | None:
    sizes = [archive.size for archive in release.archives]
    return sum(size for size in sizes if size) if any(sizes) else None


def _fetched(release: Release, store: Path) -> int:
    paths = [store / f"{archive.file}{end}" for archive in release.archives for end in ("", ".part")]
    return sum(path.stat().st_size for path in paths if path.exists())


def _require_space(path: Path, needed: int) -> None:
    there = path
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed + _SPARE:
        raise InputError(
            f"{path}: needs {(needed + _SPARE) / 1e9:.1f} GB on the disk and {free / 1e9:.1f} GB are free; name a "
            f"folder on another disk, or free some"
        )
