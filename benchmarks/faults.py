"""What happens when things go wrong: `python benchmarks/faults.py PART [--seed 0] [--count 1000]`.

    mutate    damaged input of every kind that is read: an `InputError` or a right answer, in 2 s and 1 GB
    kills     a command is ended at any moment; the same command then leaves what an undisturbed one does
    disk      writing or reading fails, or memory ends, at any moment: one line; then the same as above
    pickles   programs in weights and configurations, at every entrance: none runs, and each is refused in one line

Exit status 1 if anything else happens; the file that causes it is kept in `--keep`. A trial is drawn from the seed and
its number alone, so that `--first N --count 1` does one again.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("mutate", "pickles", "kills", "disk"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="trials")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="entrances whose names begin so")
    parser.add_argument("--keep", type=Path, default=Path("faults-found"), help="folder for files that cause a finding")
    arguments = parser.parse_args()
    trials = range(arguments.first, arguments.first + arguments.count)
    if arguments.part == "pickles":
        from campaign import pickles

        return pickles.run(arguments.keep)
    if arguments.part in ("kills", "disk"):
        from campaign import disk, kills, stage

        part = {"kills": kills, "disk": disk}[arguments.part]
        return part.run(arguments.seed, trials, arguments.keep, stage.choose(arguments.only))
    from campaign import mutate

    chosen = [entrance for entrance in mutate.ENTRANCES if entrance.name.startswith(arguments.only)]
    return mutate.run(arguments.seed, trials, arguments.workers, arguments.keep, chosen)


if __name__ == "__main__":
    sys.exit(main())
