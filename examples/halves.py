"""Disjoint parts of a folder of real pairs, to see what `evaluate` says where there is nothing to find.

Usage: python examples/halves.py DATA OUT, where DATA has images/, masks/ and splits.json. Writes OUT/half-a and OUT/half-b,
two halves of the training pairs, and OUT/most and OUT/hundred, all but a hundred of them and that hundred. half-a and most
keep the lists val and test. The files are symbolic links.
"""

import json
import random
import sys
from pathlib import Path


def main(data: Path, out: Path) -> None:
    lists = json.loads((data / "splits.json").read_text())
    names = sorted(lists["train"])
    random.Random(0).shuffle(names)
    middle, rest = len(names) // 2, len(names) - 100
    apart = {name: lists[name] for name in ("val", "test")}
    parts = {
        "half-a": {"train": names[:middle], **apart},
        "half-b": {"train": names[middle:]},
        "most": {"train": names[:rest], **apart},
        "hundred": {"train": names[rest:]},
    }
    for part, wanted in parts.items():
        chosen = {name for listed in wanted.values() for name in listed}
        for kind in ("images", "masks"):
            (out / part / kind).mkdir(parents=True)
            for path in (data / kind).iterdir():
                if path.stem in chosen:
                    (out / part / kind / path.name).symlink_to(path.resolve())
        (out / part / "splits.json").write_text(json.dumps(wanted))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
