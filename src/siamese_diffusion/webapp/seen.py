"""Images that a browser sends, what a network sees in them, and the files of it; the images themselves are not kept."""

import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion import pictures
from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.images import SUFFIXES, Mask, Pixels
from siamese_diffusion.errors import InputError, brief
from siamese_diffusion.files import read_csv, to_csv, write_text, write_whole
from siamese_diffusion.webapp.shown import looked_at

TABLE = "predictions.csv"
COLUMNS = ("name", "width", "height", "area", "share", "components")
MOST = 200
"""Images at once."""


class Seen(NamedTuple):
    """An image (H, W, 3), and how probable the mask is at each of its pixels."""

    image: Pixels
    probability: NDArray[np.float32]


def plain_name(file: str, taken: Sequence[str]) -> str:
    """A name for what is written of an uploaded file: nothing of its path, and none that is taken."""
    stem = re.sub(r"[^\w -]+", "-", Path(file.replace("\\", "/")).name.rpartition(".")[0]).strip("- ")[:80] or "image"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def require_image(path: Path) -> None:
    """Refuse what is no image by its name; what it holds is looked at when it is read."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{brief(path.name)}: not an image by its name ({', '.join(sorted(SUFFIXES))})")


def see_all(
    files: Sequence[Path], network: object, out: Path, threshold: float, flips: bool, step: Callable[[int, int], None]
) -> tuple[list[str], list[str]]:
    """Look at images, and write what is seen.

    Args:
        files: as they were uploaded; one that cannot be read is told and left out.
        network: a `TrainedNetwork`.
        out: a folder, made anew: `masks/`, `overlays/`, `probabilities/`, `shown/` and `predictions.csv`.
        threshold: probability above which a pixel is lesion.
        flips: average over the image's four flips.
        step: told how many are done.

    Returns:
        Names of those that were looked at, and a line for each that was not.

    Raises:
        InputError: none could be read, or too many at once.
    """
    if len(files) > MOST:
        raise InputError(
            f"{len(files)} images: at most {MOST} at once here; `siamese-diffusion predict` takes any number"
        )
    shutil.rmtree(out, ignore_errors=True)
    for kind in ("masks", "overlays", "probabilities", "shown"):
        (out / kind).mkdir(parents=True)
    rows: list[tuple[object, ...]] = []
    refused: list[str] = []
    for number, path in enumerate(files):
        step(number, len(files))
        try:
            require_image(path)
            image = Decoding(network.data, [path]).image(path)  # type: ignore[attr-defined]
        except InputError as error:
            refused.append(" ".join(str(error).replace(f"{path.parent}/", "").split()))
            continue
        probability = network.probability(image, flips)  # type: ignore[attr-defined]
        name = plain_name(path.name, [str(row[0]) for row in rows])
        rows.append((name, *_write(out, name, Seen(image, probability), threshold)))
    if not rows:
        raise InputError(refused[0] if refused else "drop an image first")
    write_text(out / TABLE, to_csv(list(COLUMNS), rows))
    step(len(files), len(files))
    return [str(row[0]) for row in rows], refused


def _write(out: Path, name: str, seen: Seen, threshold: float) -> tuple[object, ...]:
    """Write the files of an image; what the table says of it, after its name."""
    from scipy.ndimage import label

    from siamese_diffusion.segmentation.inference import write_label

    mask = np.asarray(seen.probability > threshold)
    write_label(out / "masks" / f"{name}.png", mask)
    grey = (seen.probability * 255).round().astype(np.uint8)
    _save(out / "probabilities" / f"{name}.png", grey, "PNG")
    _save(out / "overlays" / f"{name}.jpg", pictures.outline(seen.image, mask, pictures.GREEN), "JPEG")
    _save(out / "shown" / f"{name}.jpg", _small(seen.image), "JPEG")
    height, width = mask.shape
    return width, height, int(mask.sum()), f"{mask.mean():.6f}", int(label(mask, np.ones((3, 3)))[1])


def views(out: Path, name: str) -> list[tuple[Pixels, str]]:
    """The image, its mask, the overlay and the probability, as they are looked at, each with what it is.

    Raises:
        InputError: there is no such image.
    """
    if name not in [row["name"] for row in table(out)]:
        raise InputError(f"{brief(name)}: is not there any more; drop the image again")
    image = _read(out / "shown" / f"{name}.jpg")
    mask = _read(out / "masks" / f"{name}.png")
    return [
        (image, "image"),
        (_small(mask), "mask"),
        (looked_at(image, mask[..., 0] > 127, side=512), "overlay"),
        (_heat(_small(_read(out / "probabilities" / f"{name}.png"))[..., 0]), "probability"),
    ]


def table(out: Path) -> list[dict[str, str]]:
    """The rows of what was seen; none where nothing was."""
    return read_csv(out / TABLE, COLUMNS) if (out / TABLE).exists() else []


def packed(out: Path, archive: Path) -> Path:
    """A zip of the masks, overlays, probabilities and the table."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in _results(out):
            file.write(path, path.relative_to(out).as_posix())
    return archive


def saved(out: Path, target: Path) -> int:
    """Copy the same to a new folder; returns how many images.

    Raises:
        InputError: there is nothing, or the folder is there already.
    """
    if not table(out):
        raise InputError("nothing was segmented yet: drop an image first")
    if target.exists():
        raise InputError(f"{target.name}: is there already; give another name")
    for path in _results(out):
        place = target / path.relative_to(out)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return len(table(out))


def _results(out: Path) -> list[Path]:
    return [
        out / TABLE,
        *(path for kind in ("masks", "overlays", "probabilities") for path in sorted((out / kind).iterdir())),
    ]


def _heat(grey: NDArray[np.uint8]) -> Pixels:
    import matplotlib

    return (matplotlib.colormaps["viridis"](grey)[..., :3] * 255).astype(np.uint8)


def _small(pixels: Pixels | Mask, side: int = 512) -> Pixels:
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return np.array(picture.resize(size, Image.Resampling.BICUBIC))


def _read(path: Path) -> Pixels:
    with Image.open(path, formats=["PNG", "JPEG"]) as picture:
        return np.array(picture.convert("RGB"))


def _save(path: Path, pixels: Pixels, kind: str) -> None:
    picture = Image.fromarray(pixels)
    write_whole(path, lambda temporary: picture.save(temporary, kind, quality=92))
