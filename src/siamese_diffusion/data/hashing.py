"""Hashes of the contents of files."""

import hashlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from siamese_diffusion.claim import listing
from siamese_diffusion.data.tars import exists, open_file
from siamese_diffusion.errors import system_refusal
from siamese_diffusion.files import hash_json


def hash_files(paths: Iterable[Path]) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the contents of `paths`, in order; members of archives among
    them."""
    digest = hashlib.sha256()
    for path in paths:
        with open_file(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def hash_weights(pipeline: Path) -> str:
    """The hash of a generator's weights that every pair drawn by it carries; `pipeline` is in diffusers' layout."""
    weights = [pipeline / part / "diffusion_pytorch_model.safetensors" for part in ("controlnet", "unet", "vae")]
    return hash_files(path for path in weights if path.exists())


def note_files(paths: Collection[Path]) -> dict[str, str]:
    """What a claim notes of the files that a command works from: `files`, their names and sizes, and `contents`.

    Wherever they lie. To read them takes a hundredth of what decoding them does.

    Raises:
        WithheldError: a file cannot be read.
    """

    def content(path: Path) -> list[str]:
        try:
            return [path.name, hash_files([path]) if exists(path) else ""]
        except OSError as error:
            raise system_refusal(f"{path}: cannot be read", error) from None

    with ThreadPoolExecutor() as pool:
        contents = sorted(pool.map(content, set(paths)))
    return {"files": listing(paths), "contents": hash_json(contents)}
