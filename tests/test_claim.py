"""Whose run a folder holds: refused calls change nothing, and a resumed run is the one that was begun."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DiscPairs
from tiny import TINY

from siamese_diffusion.claim import Claim, listing
from siamese_diffusion.config import HARMLESS, Config, build_config, load_config, update
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.diffusion.pretrain import pretrain
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation.segment import segment

EARLIER = Path(__file__).parent / "data/earlier_run"
DEPENDS: dict[str, Any] = {"data": {"split"}, "train": None}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def claim(out: Path, config: Config | None = None, resume: bool = False, **inputs: Any) -> Claim:
    return Claim(out, config or Config(), DEPENDS, {"pairs": 3, **inputs}, resume)


def test_asking_writes_nothing_and_writing_makes_it_ours(tmp_path: Path) -> None:
    asked = claim(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    asked.write()
    assert load_config(tmp_path / "run/config.yaml") == Config()
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        claim(tmp_path / "run")
    claim(tmp_path / "run", resume=True)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["mine.png", "pairs.jsonl", "pipeline"])
def test_files_of_something_else_are_refused_without_advice_to_resume(tmp_path: Path, name: str, resume: bool) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="holds files of something else") as refused:
        claim(tmp_path, resume=resume)
    assert "--resume" not in str(refused.value)
    assert content(tmp_path) == {name: b"mine"}


def test_what_a_killed_call_left_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".123.config.yaml", ".lock", ".DS_Store"):
        (tmp_path / name).write_text("")
    (tmp_path / "cache").mkdir()
    claim(tmp_path).write()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        claim(tmp_path / "run")


def test_only_what_the_result_depends_on_has_to_be_the_same(tmp_path: Path) -> None:
    claim(tmp_path).write()
    for section, name, value in (
        ("train", "workers", 3),
        ("train", "keep", 9),
        ("train", "compile", True),
        ("data", "label", "lesion"),
        ("segment", "steps", 5),
    ):
        claim(tmp_path, update(Config(), section, **{name: value}), resume=True)
    for section, name, value in (("train", "steps", 5), ("data", "split", "all")):
        with pytest.raises(InputError, match=rf"--resume {section}\.{name} = {value}: .*config.yaml says"):
            claim(tmp_path, update(Config(), section, **{name: value}), resume=True)


def test_other_inputs_are_refused_and_what_earlier_versions_did_not_note_is_not_asked(tmp_path: Path) -> None:
    claim(tmp_path, files="a").write()
    claim(tmp_path, resume=True)
    claim(tmp_path, resume=True, files="a", more=1)
    with pytest.raises(InputError, match="its run is of other pairs"):
        claim(tmp_path, resume=True, files="b")
    (tmp_path / "inputs.json").unlink()
    claim(tmp_path, resume=True, files="b")


def test_harmless_settings() -> None:
    expected = {"workers", "log_every", "checkpoint_every", "keep", "shard_size", "release_gradients", "compile"}
    assert expected == HARMLESS


def test_a_listing_knows_names_and_sizes_and_not_places(tmp_path: Path) -> None:
    for folder, text in (("a", "one"), ("b", "two"), ("c", "three")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_text(text)
    a, b, c = (listing([tmp_path / folder / "x.png"]) for folder in "abc")
    assert a == b != c


Begin = Callable[[Path, Config, bool, Path], Any]
COMMANDS: dict[str, Begin] = {
    "pretrain": lambda data, config, resume, out: pretrain(data, out, config, resume, "cpu"),
    "train": lambda data, config, resume, out: train(data, out, config=config, resume=resume, device="cpu"),
    "segment": lambda data, config, resume, out: segment(data, out, [], config=config, resume=resume, device="cpu"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_trains_refuses_before_it_writes(disc_pairs: DiscPairs, tmp_path: Path, command: str) -> None:
    """A finished run, one without checkpoints, and a folder of something else: none is touched, whatever is asked for."""
    config = build_config({**TINY, "segment": {"resolution": 32, "steps": 2}}, "tests")
    out, begin = tmp_path / "run", COMMANDS[command]
    data = disc_pairs()
    begin(data, config, False, out)
    for name in ("checkpoints", "log.jsonl"):
        path = out / name
        if path.is_dir():
            for checkpoint in path.iterdir():
                for file in checkpoint.iterdir():
                    file.unlink()
                checkpoint.rmdir()
            path.rmdir()
    before = content(out)
    other = build_config(
        {**TINY, "segment": {"resolution": 32, "steps": 3}, "pretrain": {**TINY["pretrain"], "steps": 4}}, "x"
    )
    other = update(other, "train", steps=7)
    moved = disc_pairs(name="others", count=13)
    for source, settings, resume in ((data, config, False), (data, other, True), (moved, config, True)):
        with pytest.raises(InputError):
            begin(source, settings, resume, out)
        assert content(out) == before
    for resume in (False, True):
        with pytest.raises(InputError, match="holds files of something else"):
            begin(data, config, resume, data)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_another_command_writes_is_refused(disc_pairs: DiscPairs, tmp_path: Path, command: str) -> None:
    config = build_config({**TINY, "segment": {"resolution": 32, "steps": 2}}, "tests")
    with hold(tmp_path / "run"):
        before = content(tmp_path / "run")
        with pytest.raises(InputError, match="another command is writing there"):
            COMMANDS[command](disc_pairs(), config, False, tmp_path / "run")
        assert content(tmp_path / "run") == before


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """`data/earlier_run` was begun at version bbd5f3b, without inputs.json, and killed after two of four steps."""
    config = load_config(EARLIER / "config.yaml")
    shutil.copytree(EARLIER, tmp_path / "run")
    make_phantoms(tmp_path / "pairs", 4, 32, seed=3)
    result = train(tmp_path / "pairs", tmp_path / "run", config=config, resume=True, device="cpu")
    assert result["steps"] == 4
    rows = [row for row in read_jsonl(tmp_path / "run/log.jsonl") if "total" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[:2] == [row for row in read_jsonl(EARLIER / "log.jsonl") if "total" in row]
    assert (tmp_path / "run/pipeline/unet").is_dir()
    assert read_json(tmp_path / "run/inputs.json")["pairs"] == 4
