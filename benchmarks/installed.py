"""What an installation weighs: the packages that the core and each extra bring, in MB on this disk.

    python benchmarks/installed.py

Counts what is installed here, by the requirements of pyproject.toml and of every package that they bring. PyTorch and
NVIDIA's libraries are told apart: they differ tenfold between its builds for a CPU and for CUDA.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = PROJECT["name"]
HEAVY = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(listed: list[str]) -> set[str]:
    """Names of all packages that the requirements bring, as far as they are installed."""
    found: set[str] = set()
    waiting = [(Requirement(each), "") for each in listed]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonical(requirement.name)
        if name == OWN:
            inner = [each for part in requirement.extras for each in PROJECT["optional-dependencies"][part]]
            waiting += [(Requirement(each), "") for each in inner]
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(each), wanted) for each in needs]
    return found


def megabytes(names: set[str]) -> float:
    files = [(file, metadata.distribution(name)) for name in names for file in metadata.files(name) or []]
    paths = [Path(str(owner.locate_file(file))) for file, owner in files]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    core = closure(PROJECT["dependencies"])
    heavy = {name for name in core if HEAVY.fullmatch(name)}
    print(f"core: {len(core)} packages, {megabytes(core - heavy):.0f} MB, and {megabytes(heavy):.0f} MB of PyTorch")
    for extra, listed in PROJECT["optional-dependencies"].items():
        more = closure(listed) - core
        print(f"[{extra}]: {len(more)} more packages, {megabytes(more):.0f} MB")


if __name__ == "__main__":
    main()
