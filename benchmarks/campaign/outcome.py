"""What a command has left, so that two runs can be compared: contents, not times."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path

TIMES = ("tensorboard", "log.txt", "speed.jsonl")
"""Names of files and folders that hold times, process numbers or what was said: they need not be the same."""

TIMED = frozenset({"seconds", "made"})
"""Entries of a JSON file that are times."""

KEYED = re.compile(r"(cache/latents)-[0-9a-f]{16}")
"""Names of caches, which say when the files were written that they are of."""

LEFTOVER = re.compile(r"\.\d+\..+|\.run\.lock|\.pairs\..*\.begun|.*\.part(\.json)?")
"""Names of what is being written, and of what says so."""


def contents(folder: Path, drawn: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> dict[str, str]:
    """A hash of each file below a folder, hidden ones too, by its path; folders are there by their name.

    Args:
        folder: whose own path counts for nothing where a file names it.
        drawn: files that are only counted, since their content is drawn by the operating system.
        without: folders in it that are not looked at.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        parts = path.relative_to(folder).parts
        if parts[0] in without or any(part in TIMES for part in parts):
            continue
        inside = KEYED.sub(r"\1-KEY", inside)
        found[inside] = "folder" if path.is_dir() else "drawn" if inside in drawn else _hash(path, folder)
    return found


def _hash(path: Path, root: Path) -> str:
    content = path.read_bytes().replace(str(root).encode(), b"ROOT")
    if path.suffix == ".html":
        content = re.sub("\\d+(\\.\\d)?\u00a0(s|min|h)\\b".encode(), b"TIME", content)
    if path.suffix == ".json":
        with suppress(ValueError):  # what is only half written
            content = json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {name: _timeless(entry) for name, entry in value.items() if name not in TIMED}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """In words, what is not as it should be."""
    told = []
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            left = LEFTOVER.fullmatch(Path(name).name)
            told.append(f"{'leaves' if left else 'has, besides,'} {re.sub(r'[0-9]{2,}', 'N', name)}")
        elif name not in found:
            told.append(f"lacks {name}")
        elif found[name] != expected[name]:
            told.append(f"differs in {name}")
    return told
