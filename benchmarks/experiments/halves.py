"""Disjoint parts of a folder of real pairs, to see what `evaluate` says where there is nothing to find.

    python benchmarks/experiments/halves.py DATA OUT

DATA has images/, masks/ and splits.json. Writes OUT/half-a and OUT/half-b, two halves of the training pairs, and
OUT/most and OUT/hundred, all but a hundred of them and that hundred. half-a and most keep the lists val and test. The
files are symbolic links.
"""

import argparse
import json
import random
from pathlib import Path


def main(data: Path, out: Path) -> None:
    """Make the four folders."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    main(**vars(parser.parse_args()))
