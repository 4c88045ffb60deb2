"""labelme's annotations: a JSON file beside each image, which draws what is on it."""

from pathlib import Path
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.layouts.listing import Listing, walk
from siamese_diffusion.data.layouts.pairing import name_all, splits_of
from siamese_diffusion.data.layouts.paths import Paths, say_left_out
from siamese_diffusion.data.layouts.tree import Found, scan
from siamese_diffusion.data.shapes import Points, Shape, Shapes, circle, rectangle
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json

NO_AREA = ("point", "line", "linestrip", "points")


def read(folder: Path) -> Listing | None:
    """A pair for each annotated image at or below a folder; an annotation without shapes is of an image without
    lesions.

    Raises:
        InputError: an annotation cannot be read, or draws what has no area.
    """
    files = [top / name for top, names in walk(folder) for name in names if name.lower().endswith(".json")]
    told = {path.parent: path for path in files if b'"shapes"' in path.read_bytes()[: 1 << 22]}
    if not told:
        return None
    contents = {path: read_json(path) for path in files if path.parent in told}
    contents = {path: content for path, content in contents.items() if is_labelme(content)}
    if not contents:
        return None
    labels = sorted({str(shape.get("label")) for content in contents.values() for shape in content["shapes"]})
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    listing = Listing("labelme annotations", {}, {}, classes=dict(enumerate(labels, start=1)))
    found: list[Found] = []
    masks: list[MaskSource] = []
    where = {one.path: one for one in scan(folder).files}
    for path, content in contents.items():
        image = _image(path, content, folder)
        if image is None or image not in where:
            listing.broken.append((path, f"names {content.get('imagePath')}, which is not there"))
            continue
        size = (content.get("imageWidth"), content.get("imageHeight"))
        sized = size if all(isinstance(side, int) and side > 0 for side in size) else None
        parts = tuple(_shape(shape, numbers, path) for shape in content["shapes"])
        found.append(where[image])
        masks.append(MaskSource((path,), shapes=Shapes(parts, image, path, sized)))
    names, groups, doubled = name_all(found, lambda one: (one.split, one.above))
    listing.images.update({name: found[index].path for index, name in names.items()})
    listing.masks.update({name: masks[index] for index, name in names.items()})
    listing.doubled.extend(doubled)
    listing.groups.update(groups)
    listing.splits.update(splits_of({name: found[index].split for index, name in names.items()}))
    return say_left_out(listing)


def is_labelme(content: Any) -> bool:
    """Whether a JSON value is one image's annotation."""
    shapes = content.get("shapes") if isinstance(content, dict) else None
    return isinstance(shapes, list) and all(isinstance(shape, dict) and "points" in shape for shape in shapes)


def _image(path: Path, content: dict[str, Any], folder: Path) -> Path | None:
    """The image that is named, else the one that is called like the annotation."""
    paths = Paths(path.parent, folder)
    named = content.get("imagePath")
    return (paths.find(named, "image") if isinstance(named, str) else None) or paths.find(path.stem, "image")


def _shape(shape: dict[str, Any], numbers: dict[str, int], path: Path) -> Shape:
    kind = shape.get("shape_type") or "polygon"
    try:
        points: Points = tuple((float(x), float(y)) for x, y in shape["points"])
        if kind == "rectangle":
            (x0, y0), (x1, y1) = points
            points = rectangle(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0))
        elif kind == "circle":
            (x0, y0), (x1, y1) = points
            points = circle(x0, y0, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
    except (TypeError, ValueError):
        raise InputError(f"{path}: a {kind} has points that cannot be read") from None
    if kind not in ("polygon", "rectangle", "circle"):
        known = "has no area" if kind in NO_AREA else "is not read"
        raise InputError(f"{path}: the shape {shape.get('label')} is a {kind}, which {known}; draw it as a polygon")
    return Shape(numbers[str(shape.get("label"))], (points,))
