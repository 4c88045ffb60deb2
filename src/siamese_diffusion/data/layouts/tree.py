"""All image files of a folder with what the names of their folders say."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from siamese_diffusion.data.layouts.listing import named_as_image, walk
from siamese_diffusion.data.layouts.words import Role, meaning


@dataclass(frozen=True)
class Found:
    """An image file."""

    path: Path
    role: Role | None
    split: str | None
    above: tuple[str, ...]
    """Its folders that say no role, outside first, without words of splits."""
    rest: str
    """What is left of the name of the folder that says its role, "C1" of `masks_C1`."""

    @property
    def places(self) -> tuple[str, ...]:
        """Its folders with what is left of the one that says its role."""
        return (*self.above, self.rest) if self.rest else self.above


@dataclass(frozen=True)
class Tree:
    """The image files at and below a folder."""

    files: list[Found] = field(default_factory=list)
    broken: list[tuple[Path, str]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """Files of other extensions, by extension."""

    def of(self, role: Role | None) -> list[Found]:
        """Those whose folders say this role, or none."""
        return [found for found in self.files if found.role == role]


def scan(folder: Path) -> Tree:
    """Find all image files of a folder; none is opened."""
    tree = Tree()
    held = [(top, names, top.relative_to(folder).parts) for top, names in walk(folder)]
    faint = not any(where_of(parts, False).role == "image" for _, names, parts in held if names)
    for top, names, parts in held:
        where = where_of(parts, faint)
        for name in names:
            path = top / name
            if not named_as_image(path):
                tree.unread[path.suffix.lower()] += 1
            elif path.exists():
                tree.files.append(replace(where, path=path))
            else:
                tree.broken.append((path, "is a link that leads nowhere"))
    return tree


def where_of(parts: tuple[str, ...], faint: bool) -> Found:
    """What the folders of a file say, as a `Found` without its path; `faint`: whether faint words of images count."""
    said = [meaning(part) for part in parts]
    speaking = [index for index, one in enumerate(said) if one.role and not one.faint]
    speaking = speaking or [index for index, one in enumerate(said) if one.role and faint]
    chosen = speaking[-1] if speaking else None
    role = said[chosen].role if chosen is not None else None
    objects = any(part.lower().replace("_", "") == "segmentationobject" for part in parts)
    if objects or any(one.role == "ignored" for one in said):  # VOC numbers objects one by one; classes lie beside
        role = "ignored"
    splits = [one.split for one in said if one.split]
    above = [
        one.rest if one.split and not one.role else part
        for index, (part, one) in enumerate(zip(parts, said, strict=True))
        if index != chosen
    ]
    return Found(
        Path(),
        role,
        splits[-1] if splits else None,
        tuple(filter(None, above)),
        said[chosen].rest if chosen is not None else "",
    )
