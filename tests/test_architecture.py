"""The rooms of the house and who may use whom, read from the source: docs/architecture.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import siamese_diffusion

PACKAGE = Path(siamese_diffusion.__file__).parent
ROOMS = {"data", "diffusion", "segmentation", "evaluation", "reader_study", "studies"}
ABOVE = {
    "studies",
    "demonstration",
    "exporting",
    "pushing",
    "job",
    "job_estimate",
    "job_page",
    "run_status",
    "webapp",
    "mask_training",
    "cli",
    "__init__",
    "__main__",
}
"""They stand above the rooms and may use all of them; of these, only `cli` is used by nobody but `__main__`."""

ALLOWED = {
    "shared": set(),
    "data": {"shared"},
    "reader_study": {"shared", "data"},
    "diffusion": {"shared", "data", "loop"},
    "segmentation": {"shared", "data", "loop"},
    "evaluation": {"shared", "data", "segmentation"},
}
"""What a room may use besides itself. "shared" are the modules at the top, without the loop and what stands above."""


def room(module: str) -> str:
    """Where a module stands, by its name without the package's."""
    first = module.partition(".")[0]
    if first in ROOMS or first in ABOVE:
        return first
    return "loop" if first == "loop" else "shared"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, anywhere in it, but for the checker of types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inside in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("siamese_diffusion"))
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("siamese_diffusion"):
            for alias in node.names:
                inner = (
                    PACKAGE
                    / str(node.module).replace(".", "/").removeprefix("siamese_diffusion").lstrip("/")
                    / alias.name
                )
                whole = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if whole else str(node.module)


FILES = sorted(PACKAGE.rglob("*.py"))
GRAPH = {
    name_of(path): {name.removeprefix("siamese_diffusion").lstrip(".") for name in imports(path)} for path in FILES
}


def test_the_source_is_read() -> None:
    assert len(GRAPH) > 80
    assert "data.folder" in GRAPH["diffusion.train"]
    assert "segmentation.networks" in GRAPH["segmentation.training"]
    assert "studies.spec" in GRAPH["cli"]


@pytest.mark.parametrize("module", [name for name in GRAPH if room(name) not in ABOVE])
def test_a_room_uses_only_what_stands_below_it(module: str) -> None:
    own = room(module)
    allowed = ALLOWED.get(own, {"shared"}) | {own}
    wrong = {used for used in GRAPH[module] if used and room(used) not in allowed}
    assert wrong == set()


def test_nothing_uses_the_command_line() -> None:
    assert [name for name, used in GRAPH.items() if "cli" in used] == ["__main__"]


def test_no_circle() -> None:
    """Modules can be put in an order in which each uses only earlier ones."""
    left = {name: {used for used in uses if used in GRAPH and used != name} for name, uses in GRAPH.items()}
    while left:
        ready = [name for name, uses in left.items() if not uses & left.keys()]
        assert ready, f"a circle among {sorted(left)}"
        for name in ready:
            del left[name]


def test_no_benchmark_imports_a_script() -> None:
    """What benchmarks share is in files that run nothing, so that they form no circle and each starts by itself."""
    folder = Path(__file__).parents[1] / "benchmarks"
    files = [path for room in ("speed", "experiments") for path in (folder / room).glob("*.py")]
    sources = {path.stem: path.read_text(encoding="utf-8") for path in files}
    scripts = {name for name, source in sources.items() if '__name__ == "__main__"' in source}
    shared = sources.keys() - scripts
    assert shared == {"bench", "drawing", "held_out"}
    used = {
        name: {str(node.module) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
        & sources.keys()
        for name, source in sources.items()
    }
    assert used["train_step"] == {"bench"}
    assert {name: uses & scripts for name, uses in used.items() if uses & scripts} == {}
    assert [name for name in shared if used[name]] == []
