"""How fast `check` reads a folder, and how much memory it takes; and what its fingerprints find among real images.

python benchmarks/speed/checking.py [--count 10000] [--format png] [--report]
python benchmarks/speed/checking.py --real kvasir-seg --count 1000

The first makes as many pairs of 320 x 320 pixels, and `check` reads them in a process of its own, fingerprints
included; the second counts the pairs of a real folder of images whose fingerprints are near, and for a sample how many
copies are found again.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from siamese_diffusion.data.fingerprint import COPY, NEAR, fingerprint, matches

SIDE = 320
SAMPLE = 60


def make(folder: Path, count: int, ending: str) -> None:
    """Write pairs: smooth colours with some texture, and a disc."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for part in ("images", "masks"):
        (folder / part).mkdir()

    def one(i: int) -> None:
        random = np.random.default_rng(i)
        low = Image.fromarray(random.integers(60, 200, (8, 8, 3), np.uint8))
        smooth = np.asarray(low.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        image = (smooth + random.integers(-6, 7, (SIDE, SIDE, 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"images/{i:06d}.{ending}")
        down, across = random.uniform(100, 220, 2)
        mask = (y - down) ** 2 + (x - across) ** 2 < random.uniform(20, 80) ** 2
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"masks/{i:06d}.png")

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(count)))


def measure(folder: Path, count: int, report: bool) -> None:
    """Check the folder in another process and print what it took."""
    command = [sys.executable, "-m", "siamese_diffusion", "check", str(folder), "--json"]
    command += ["--report", str(folder.parent / "check.html")] if report else []
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = used.ru_utime + used.ru_stime
    print(f"{count} pairs: {wall:.1f} s, {count / wall:.0f} pairs a second; {busy:.1f} s of processor time, ", end="")
    print(f"{1000 * busy / count:.2f} ms a pair; peak memory {used.ru_maxrss / 1024:.0f} MiB")


def saved(picture: Image.Image, **options: object) -> Image.Image:
    """An image after it was written as a JPEG."""
    content = io.BytesIO()
    picture.save(content, "JPEG", **options)
    return Image.open(io.BytesIO(content.getvalue())).convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 40": lambda picture: saved(picture, quality=40),
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "squared to 128": lambda picture: picture.resize((128, 128)),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    "brighter": lambda picture: picture.point([min(255, round(1.15 * i + 8)) for i in range(256)] * 3),
    "cut by 2 %": lambda picture: picture.crop(
        (picture.width // 50, picture.height // 50, picture.width * 49 // 50, picture.height * 49 // 50)
    ),
}


def real(folder: Path, count: int) -> None:
    """Print what is near among real images, and what is found again of their copies."""
    files = sorted((folder / "images").iterdir())[:count]

    def one(path: Path) -> Image.Image:
        with Image.open(path) as picture:
            return picture.convert("RGB")

    with ThreadPoolExecutor() as pool:
        prints = list(pool.map(lambda path: fingerprint(one(path)), files))
    found = matches(prints, [None] * len(prints))
    copies = sum(match.is_copy for match in found)
    print(f"{folder.name}, {len(files)} images: {copies} pairs within {COPY} signs, {len(found)} within {NEAR}")
    chosen = list(range(0, len(files), max(1, len(files) // SAMPLE)))
    for name, change in COPIES.items():
        again = [matches([prints[place], fingerprint(change(one(files[place])))], [0, 1], COPY) for place in chosen]
        print(f"  {name}: {sum(map(bool, again))} of {len(chosen)} copies are found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--real", type=Path)
    arguments = parser.parse_args()
    if arguments.real:
        real(arguments.real, arguments.count)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        make(data, arguments.count, arguments.format)
        measure(data, arguments.count, arguments.report)


if __name__ == "__main__":
    main()
