"""What callers in Python may give for a folder and for settings."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

import siamese_diffusion
from siamese_diffusion import Config, load_config
from siamese_diffusion.arguments import to_config, to_list, to_path, to_paths
from siamese_diffusion.errors import InputError

FUNCTIONS = {
    name: getattr(siamese_diffusion, name)
    for name in siamese_diffusion.__all__
    if inspect.isfunction(getattr(siamese_diffusion, name)) and name != "load_config"
}


def parts(annotation: Any) -> set[Any]:
    """The types that a union has."""
    inner = get_args(annotation)
    return set().union(*(parts(each) for each in inner)) if inner else {annotation}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_where_a_path_is_taken_a_text_is_taken(name: str) -> None:
    signature = inspect.signature(FUNCTIONS[name], eval_str=True)
    for parameter in signature.parameters.values():
        kinds = parts(parameter.annotation)
        if any(isinstance(kind, type) and issubclass(kind, Path) for kind in kinds):
            assert str in kinds, f"{name}({parameter})"
        if Config in kinds:
            assert {str, Mapping[str, Any]} <= {*kinds, *get_args(parameter.annotation)}, f"{name}({parameter})"


TEXTS: dict[str, dict[str, Any]] = {
    "check": {"data": "{}/absent"},
    "prepare": {"data": "{}/absent", "out": "{}/out"},
    "pretrain": {"images": "{}/absent", "out": "{}/out"},
    "train": {"data": "{}/absent", "out": "{}/out"},
    "sample": {"checkpoint": "{}/absent", "masks": "{}/absent", "out": "{}/out"},
    "evaluate": {"real": "{}/absent", "synthetic": "{}/absent", "out": "{}/out"},
    "filter": {"scores": "{}/absent", "out": "{}/out", "min_dice": 0.5},
    "segment": {"train": "{}/absent", "out": "{}/out", "test": "{}/absent", "synthetic": ["{}/absent"]},
    "predict": {"network": "{}/absent", "images": "{}/absent", "out": "{}/out"},
    "run": {"data": "{}/absent", "out": "{}/out"},
    "status": {"run": "{}/absent"},
    "study": {"config": "{}/absent", "out": "{}/out"},
    "import_": {"source": "{}/absent.ckpt", "out": "{}/out"},
    "export": {"checkpoint": "{}/absent", "out": "{}/out"},
    "export_nnunet": {"data": "{}/absent", "out": "{}/out", "name": "x", "synthetic": "{}/absent"},
    "get_data": {"name": "kvasir-seg", "out": "{}/out", "archives": "{}/absent"},
    "export_ratings": {"real": "{}/absent", "synthetic": "{}/absent", "out": "{}/out"},
    "score_ratings": {"files": "{}/absent", "key": "{}/absent"},
    "train_masks": {"data": "{}/absent", "out": "{}/out"},
    "app": {"data": "{}/absent", "out": "{}/out"},
    "load_network": {"run": "{}/absent"},
    "load_original": {"source": "{}/absent.ckpt"},
}
"""The least that each function is called with, as texts."""


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_no_folder_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(each) for each in value]
        return value.replace("{}", str(tmp_path)) if isinstance(value, str) else value

    with pytest.raises(InputError, match="absent") as caught:
        FUNCTIONS[name](**{key: filled(value) for key, value in TEXTS[name].items()})
    assert "\n" not in str(caught.value)


def test_every_function_is_called_so() -> None:
    assert FUNCTIONS.keys() == {*TEXTS, "demo", "phantoms", "list_data"}


def test_a_text_does_what_a_path_does(tmp_path: Path) -> None:
    siamese_diffusion.phantoms(str(tmp_path / "phantoms"), count=2, resolution=32)
    report = siamese_diffusion.check(str(tmp_path / "phantoms"), {"data.resolution": 32})
    assert report.usable
    same = siamese_diffusion.check(tmp_path / "phantoms", load_config({"data.resolution": 32}).data)
    assert report.as_dict() == same.as_dict()


def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert to_path("~/data") == tmp_path / "data"
    assert to_path(Path("data")) == Path("data")
    assert to_paths("a", "--test") == to_paths([Path("a")], "--test") == [Path("a")]
    assert to_paths(None, "--test") == to_list(None) == []
    assert to_list("ab") == ["ab"]
    for empty in ("", "  "):
        with pytest.raises(InputError, match="--out '': is empty"):
            to_path(empty)


@pytest.mark.parametrize(
    "given", [{"train.steps": 7}, {"train": {"steps": 7}}, Config.model_validate({"train": {"steps": 7}})]
)
def test_settings(given: Any) -> None:
    assert to_config(given).train.steps == 7


def test_a_mapping_changes_the_commands_own_settings_and_a_file_replaces_them(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train.steps: 9\n")
    paper = load_config("sd15-paper")
    changed = to_config({"train.steps": 7}, lambda: paper)
    assert (changed.train.steps, changed.train.batch_size) == (7, paper.train.batch_size)
    for name in (tmp_path / "mine.yaml", str(tmp_path / "mine.yaml")):
        read = to_config(name, lambda: paper)
        assert (read.train.steps, read.train.batch_size) == (9, Config().train.batch_size)
    assert to_config(None, lambda: paper) == to_config("sd15-paper") == paper
