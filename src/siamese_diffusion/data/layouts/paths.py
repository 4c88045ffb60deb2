"""Files that a manifest names, found again where it was written on another machine or by another system."""

import os
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from siamese_diffusion.data.layouts.listing import Listing, named_as_image, walk
from siamese_diffusion.data.layouts.words import Role, meaning, plain
from siamese_diffusion.data.tars import exists

ROLES: tuple[Role, Role] = ("image", "mask")
"""What the two files of a pair are."""


class Paths:
    """Where the files are that a manifest in a folder names.

    Args:
        folder: of the manifest.
        tops: further folders that its paths may be relative to.
    """

    def __init__(self, folder: Path, *tops: Path) -> None:
        self.tops = list(dict.fromkeys((folder, *tops)))
        self.loose = 0
        """Names that were found only after a change: of case, Unicode form, slashes, leading folders, extension."""

    def find(self, text: str, role: Role | None = None) -> Path | None:
        """The file that is meant, or None; of several of a name, the one that does not lie in folders of another
        `role`.

        As it is written first. Then with slashes for backslashes; without leading folders, which another machine had;
        in any case or Unicode form; and without its extension, where only one file has that name.
        """
        if not text.strip():
            return None
        for top in self.tops:
            if exists(top / text):
                return top / text
        parts = PurePosixPath(text.strip().replace("\\", "/")).parts
        for start in range(len(parts)):
            key = plain("/".join(parts[start:]))
            found = self._known.get(key) or self._bare.get(key, [])
            if len(found) > 1 and role is not None:
                found = [path for path in found if _role(path.relative_to(self.tops[-1])) in (role, None)]
            if len(found) == 1:
                self.loose += 1
                return found[0]
            if found:
                return None
        return None

    @cached_property
    def _known(self) -> dict[str, list[Path]]:
        """Image files by their paths as seen from every folder above them."""
        known: dict[str, list[Path]] = {}
        for path in self._files:
            for key in _ends(path.relative_to(self.tops[-1])):
                known.setdefault(key, []).append(path)
        return known

    @cached_property
    def _bare(self) -> dict[str, list[Path]]:
        """The same without extensions."""
        bare: dict[str, list[Path]] = {}
        for key, paths in self._known.items():
            bare.setdefault(key.rpartition(".")[0], []).extend(paths)
        return bare

    @cached_property
    def _files(self) -> list[Path]:
        return [top / name for top, names in walk(self.tops[-1]) for name in names if named_as_image(top / name)]


def _ends(path: Path) -> list[str]:
    return [plain("/".join(path.parts[start:])) for start in range(len(path.parts))]


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, as it is written, leads into a folder; where links lead does not matter."""
    return Path(os.path.normpath(path.absolute())).is_relative_to(os.path.normpath(folder.absolute()))


def say_left_out(listing: Listing, within: Sequence[Path] = ()) -> Listing:
    """The listing with a note on the image files that lie beside those it names and are not named themselves.

    Args:
        listing: what is named.
        within: folders outside of which nobody expects every file to be named; none: everywhere.
    """
    named = [path for mask in listing.masks.values() if mask.shapes is None for path in mask.files]
    named += [*listing.images.values(), *listing.doubled]
    known = {unicodedata.normalize("NFC", str(path)) for path in named}
    others = [
        path
        for folder in sorted({path.parent for path in named if path.parent.is_dir() and _lies(path, within)})
        for path in folder.iterdir()
        if named_as_image(path) and unicodedata.normalize("NFC", str(path)) not in known
    ]
    if others:
        more = ", ..." if len(others) > 1 else ""
        listing.notes.append(f"left out, {len(others)} images that are not named: {min(others).name}{more}")
    return listing


def _lies(path: Path, within: Sequence[Path]) -> bool:
    return not within or any(path.is_relative_to(folder) for folder in within)


def _role(path: Path) -> Role | None:
    """What the folders of a path say, the innermost first."""
    return next(
        (said.role for part in reversed(path.parts[:-1]) if (said := meaning(part)).role and not said.faint), None
    )
