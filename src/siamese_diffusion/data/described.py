"""What a folder of pairs says of itself: its name, its licence, and where it comes from."""

from pathlib import Path
from typing import Any

from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json

FILES = ("dataset.json", "source.json")
"""Written by `prepare`, and by `data get`; other programs' are read where they have the same keys."""


def describe(folder: DataFolder) -> dict[str, str]:
    """`name`, and where a file says so `licence` and `source`. No path: it would tell who worked where."""
    found = {"name": folder.path.resolve().name}
    for content in map(_content, (folder.path / name for name in FILES)):
        for key, names in {"licence": ("licence", "license"), "source": ("source", "page", "address")}.items():
            said = next((content[name] for name in names if isinstance(content.get(name), str) and content[name]), None)
            if said is not None:
                found.setdefault(key, " ".join(said.split()))
    return found


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path) if path.is_file() else {}
    except InputError:  # another program's, and of no weight here
        return {}
    return content if isinstance(content, dict) else {}
