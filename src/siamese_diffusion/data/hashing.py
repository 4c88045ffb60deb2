"""Hashes of the contents of files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from siamese_diffusion.data.tars import open_file


def hash_files(paths: Iterable[Path]) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the contents of `paths`, in order; members of archives among
    them."""
    digest = hashlib.sha256()
    for path in paths:
        with open_file(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
