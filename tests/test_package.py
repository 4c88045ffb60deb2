"""What the package exports, and when it is imported."""

import ast
import rlcompleter
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import siamese_diffusion
from siamese_diffusion.cli import app

STUB = ast.parse(Path(siamese_diffusion.__file__).with_suffix(".pyi").read_text())
EXPORTED = {alias.asname for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}

LISTED = next(
    ast.literal_eval(node.value)
    for node in STUB.body
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
)

OF_COMMANDS = {
    "import": "import_",
    "data list": "list_data",
    "data get": "get_data",
    "rate export": "export_ratings",
    "rate score": "score_ratings",
    "export-nnunet": "export_nnunet",
    "train-masks": "train_masks",
}
"""The function of a command where it has not the command's name."""


def commands(app: typer.Typer, prefix: str = "") -> set[str]:
    names = {str(entry.name or (entry.callback and entry.callback.__name__)) for entry in app.registered_commands}
    found = {prefix + name for name in names}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found |= commands(group.typer_instance, f"{prefix}{group.name} ")
    return found


def test_what_type_checkers_see_is_what_there_is() -> None:
    assert {*siamese_diffusion.__all__} == {*EXPORTED, "__version__"}
    assert {*siamese_diffusion.__all__} == {*LISTED, "__version__"}  # what a checker takes as exported


def test_tab_shows_the_functions_and_nothing_else() -> None:
    shown = {name for name in dir(siamese_diffusion) if not name.startswith("__")}
    assert shown == {*EXPORTED}
    completer = rlcompleter.Completer({"siamese_diffusion": siamese_diffusion})
    assert str(completer.complete("siamese_diffusion.list_d", 0)).startswith("siamese_diffusion.list_data(")


def test_earlier_names_still_work() -> None:
    assert getattr(siamese_diffusion, "filter_") is siamese_diffusion.filter  # noqa: B009
    assert getattr(siamese_diffusion, "make_phantoms") is siamese_diffusion.phantoms  # noqa: B009


@pytest.mark.parametrize("name", siamese_diffusion.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert name == "__version__" or callable(getattr(siamese_diffusion, name))


def test_no_file_takes_the_name_of_a_function() -> None:
    """Once it is imported, a module beside `__init__.py` is what its name means."""
    beside = {path.stem for path in Path(siamese_diffusion.__file__).parent.iterdir()}
    assert not beside & EXPORTED


def test_every_command_has_a_function_and_every_function_a_command() -> None:
    functions = {OF_COMMANDS.get(name, name) for name in commands(app)}
    assert len(functions) == 23
    assert functions == {*siamese_diffusion.__all__} - {
        "Config",
        "SiameseDiffusion",
        "load_config",
        "load_network",
        "load_original",
        "__version__",
    }


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'siamese_diffusion' has no attribute 'tarin'"):
        siamese_diffusion.tarin  # type: ignore[attr-defined]  # noqa: B018


def test_the_import_is_light_and_each_name_brings_its_own() -> None:
    code = """if True:
        import sys
        import siamese_diffusion
        assert dir(siamese_diffusion) and siamese_diffusion.__version__
        print([name for name in ("torch", "numpy", "pydantic", "typer", "gradio") if name in sys.modules])
        siamese_diffusion.list_data
        print("siamese_diffusion.data.fetch.get" in sys.modules, "torch" in sys.modules)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\nTrue False\n"
