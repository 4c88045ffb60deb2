"""What happens when things go wrong: `python benchmarks/faults.py PART [--seed 0] [--count 1000]`.

    mutate    damaged input of every kind that is read: an `InputError` or a right answer, in 2 s and 1 GB
    pickles   programs in weights and configurations, at every entrance: none runs, and each is refused in one line
    kills     a command is ended at any moment; the same command then leaves what an undisturbed one does
    disk      writing or reading fails, or memory ends, at any moment: one line; then the same as above
    soak      so many pairs through the commands that handle them: memory and open files stay flat
    all       every part, one after another

Exit status 1 if anything else happens; the file that causes it is kept in `--keep`. A trial is drawn from the seed and
its number alone, so that `--first N --count 1` does one again.
"""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "all"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="trials; pairs of `soak`")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="entrances, or commands, whose names begin so")
    parser.add_argument("--keep", type=Path, default=Path("faults-found"), help="folder for files that cause a finding")
    arguments = parser.parse_args()
    if arguments.part == "all":  # each in a process of its own: what one began, another one's forks would miss
        options = sys.argv[1:]
        options.remove("all")
        return max(subprocess.run([sys.executable, __file__, name, *options]).returncode for name in PARTS)
    return PARTS[arguments.part](arguments)


def mutate(arguments: argparse.Namespace) -> int:
    from campaign import mutate

    chosen = [entrance for entrance in mutate.ENTRANCES if entrance.name.startswith(arguments.only)]
    return mutate.run(arguments.seed, trials(arguments), arguments.workers, arguments.keep, chosen)


def pickles(arguments: argparse.Namespace) -> int:
    from campaign import pickles

    return pickles.run(arguments.keep)


def kills(arguments: argparse.Namespace) -> int:
    from campaign import kills, stage

    return kills.run(arguments.seed, trials(arguments), arguments.keep, stage.choose(arguments.only))


def disk(arguments: argparse.Namespace) -> int:
    from campaign import disk, stage

    return disk.run(arguments.seed, trials(arguments), arguments.keep, stage.choose(arguments.only))


def soak(arguments: argparse.Namespace) -> int:
    from campaign import soak

    return soak.run(arguments.count)


def trials(arguments: argparse.Namespace) -> range:
    return range(arguments.first, arguments.first + arguments.count)


PARTS = {"mutate": mutate, "pickles": pickles, "kills": kills, "disk": disk, "soak": soak}


if __name__ == "__main__":
    sys.exit(main())
