"""Whose run a folder holds: refused calls change nothing, and a resumed run is the one that was begun."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import DiscPairs
from tiny import TINY

from siamese_diffusion.claim import Claim, begun_earlier, listing, mark, marked_by, require_apart
from siamese_diffusion.config import HARMLESS, Config, build_config, load_config, update
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.diffusion.pretrain import pretrain
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl, write_json
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation.segment import segment

EARLIER = Path(__file__).parent / "data/earlier_run"
DEPENDS: dict[str, Any] = {"data": {"split"}, "train": None}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def claim(out: Path, config: Config | None = None, resume: bool | None = False, **inputs: Any) -> Claim:
    return Claim(out, config or Config(), DEPENDS, {"command": "train", "pairs": 3, **inputs}, resume)


def begun(out: Path, **inputs: Any) -> None:
    """A run as it is once something of value is there."""
    claim(out, **inputs).write()
    (out / "log.jsonl").write_text("{}\n")


def test_asking_writes_nothing_and_writing_makes_it_ours(tmp_path: Path) -> None:
    asked = claim(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    asked.mark()
    assert content(tmp_path / "run").keys() == {"inputs.json"}
    assert marked_by(tmp_path / "run") == "train"
    asked.write()
    assert load_config(tmp_path / "run/config.yaml") == Config()
    (tmp_path / "run/log.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        claim(tmp_path / "run")
    claim(tmp_path / "run", resume=True)


def test_a_call_that_was_refused_before_it_made_anything_is_no_obstacle(tmp_path: Path) -> None:
    """So its advice, other settings or another image, can be followed with the same --out."""
    claim(tmp_path, files="a").write()
    for name in ("cache/images-0.npy", ".7.x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "images").mkdir()  # as a folder of pairs begins
    (tmp_path / "pairs.jsonl").touch()
    changed = update(Config(), "train", steps=7)
    claim(tmp_path, changed, files="b").write()
    assert load_config(tmp_path / "config.yaml") == changed
    (tmp_path / "images/a.png").write_text("x")
    with pytest.raises(InputError, match="already holds a run"):
        claim(tmp_path, changed, files="b")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        *(
            "mine.png",
            "pairs.jsonl",
            "pipeline",
            "pretrain",
            "log.jsonl",
            "images/mine.png",
            "checkpoints/step-000001/x",
        ),
        *("config.yaml", "inputs.json", "cache/mine.npy", "cache/images.txt"),
    ],
)
def test_files_of_something_else_are_refused_without_advice_to_resume(tmp_path: Path, name: str, resume: bool) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("data: {split: mine}\n" if name == "config.yaml" else '{"command": "train"}')
    before = content(tmp_path)
    with pytest.raises(InputError, match="holds files of something else") as refused:
        claim(tmp_path, resume=resume)
    assert "--resume" not in str(refused.value)
    assert content(tmp_path) == before


def test_what_a_killed_call_left_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".123.config.yaml", ".lock", ".DS_Store"):
        (tmp_path / name).write_text("")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/images-0123456789abcdef.npy").write_text("x")  # earlier versions made it before their settings
    claim(tmp_path).write()


@pytest.mark.parametrize("written", [0, 1, 2, 3])
@pytest.mark.parametrize("before", ["nothing", "a run", "a run of an earlier version"])
def test_a_claim_may_be_cut_short_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, written: int
) -> None:
    """After each of the files that it writes, the same call goes on."""
    if before != "nothing":
        begun(tmp_path)
    if before == "a run of an earlier version":
        (tmp_path / "inputs.json").unlink()
    resume = before != "nothing"
    left = [written]
    replace = Path.replace

    def cut(self: Path, target: Path) -> Path:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(self, target)

    def ask() -> Claim:
        earlier = partial(begun_earlier, tmp_path, "train")
        return Claim(tmp_path, Config(), DEPENDS, {"command": "train"}, resume, earlier=earlier)

    asked = ask()
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", cut)
        asked.write()
    ask().write()
    assert read_json(tmp_path / "inputs.json") == {"program": "siamese-diffusion", "command": "train"}
    assert load_config(tmp_path / "config.yaml") == Config()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        claim(tmp_path / "run")


def test_only_what_the_result_depends_on_has_to_be_the_same(tmp_path: Path) -> None:
    begun(tmp_path)
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
        with pytest.raises(
            InputError, match=rf"was begun with {section}\.{name} = .*, not {value}; name another"
        ) as refused:
            claim(tmp_path, update(Config(), section, **{name: value}), resume=None)
        assert "--resume" not in str(refused.value)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.yaml: is gone"):
        claim(tmp_path, resume=True)


def test_other_inputs_are_refused_and_what_earlier_versions_did_not_note_is_not_asked(tmp_path: Path) -> None:
    begun(tmp_path, files="a")
    claim(tmp_path, resume=True)
    claim(tmp_path, resume=True, files="a", more=1)
    with pytest.raises(InputError, match=r"was begun from other input \(files, see inputs\.json\)"):
        claim(tmp_path, resume=True, files="b")
    half: dict[str, Any] = {"--min": 0.5}
    begun(tmp_path / "options", **half)
    half["--min"] = 0.6
    with pytest.raises(InputError, match=r"--resume --min 0\.6: .*inputs\.json says 0\.5"):
        claim(tmp_path / "options", resume=True, **half)
    for resume in (None, False):  # which would not help
        with pytest.raises(InputError, match=r"was begun with --min 0\.5, not 0\.6; name another"):
            claim(tmp_path / "options", resume=resume, **half)


def test_a_finished_folder_of_a_command_without_resume_is_left_alone(tmp_path: Path) -> None:
    inputs = {"command": "import"}
    Claim(tmp_path, None, {}, inputs, None, result="summary.json").write()
    (tmp_path / "pipeline").write_text("x")
    Claim(tmp_path, None, {}, inputs, None, result="summary.json")
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="already holds a run; name another folder") as refused:
        Claim(tmp_path, None, {}, inputs, None, result="summary.json")
    assert "--resume" not in str(refused.value)


def test_other_processes_neither_ask_nor_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setenv("RANK", "1")
    claim(tmp_path).write()
    assert content(tmp_path).keys() == {"mine"}


def test_a_folder_that_is_read_is_not_written_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (data / "masks").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "into").symlink_to(data / "images")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for out in (
        data,
        data / "new",
        data / "images",
        data / "images/new/deeper",
        Path("../data"),
        Path("../data/new"),
        tmp_path / "elsewhere/../data/new",
        tmp_path / "nowhere/../data",
        tmp_path / "link",
        tmp_path / "link/new",
        tmp_path / "into/new",
        data / "masks",
        data / "masks/new",
        Path("new"),  # where the masks of `data` really lie
        Path("deep/new"),
    ):
        with pytest.raises(
            InputError, match=rf"^--out {out}: (is|lies inside) .*--train-data {data}.*name .*outside it$"
        ):
            require_apart(out, train_data=data)
        with pytest.raises(InputError, match="--cache"):
            require_apart(out, "--cache", train_data=[tmp_path / "nothing", data])
    for out in (tmp_path, tmp_path / "data-new", tmp_path / "run", data / "../run"):
        require_apart(out, train_data=data, more=None, none=[])
    require_apart(data, train_data=tmp_path / "nowhere")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    require_apart(loop / "new", train_data=data)


def test_harmless_settings() -> None:
    loops = {"workers", "log_every", "checkpoint_every", "keep", "shard_size", "release_gradients", "compile"}
    assert {*loops, "max_pixels", "outside", "set_aside", "report_masks"} == HARMLESS


def test_a_listing_knows_names_and_sizes_and_not_places(tmp_path: Path) -> None:
    for folder, text in (("a", "one"), ("b", "two"), ("c", "three")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_text(text)
    a, b, c = (listing([tmp_path / folder / "x.png"]) for folder in "abc")
    assert a == b != c


def test_a_file_that_is_changed_in_place_is_another_one(tmp_path: Path, disc_pairs: DiscPairs) -> None:
    """Also where its size stays, and its time."""
    data, out = disc_pairs(count=4), tmp_path / "out"
    config = build_config({"data": {"resolution": 32}}, "test")
    inputs = {"command": "train", **note_files(sorted(data.rglob("*.png")))}
    Claim(out, config, {}, inputs, False).write()
    (out / "log.jsonl").write_text("{}\n")
    file = data / "masks/002.png"
    state, content = file.stat(), bytearray(file.read_bytes())
    Claim(out, config, {}, {"command": "train", **note_files(sorted(data.rglob("*.png")))}, True)
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    changed = note_files(sorted(data.rglob("*.png")))
    with pytest.raises(InputError, match=r"other input \(contents"):
        Claim(out, config, {}, {"command": "train", **changed}, True)
    earlier = {"command": "train", "program": "siamese-diffusion", "files": changed["files"]}
    write_json(out / "inputs.json", earlier)  # of a version that noted names and sizes alone
    Claim(out, config, {}, {"command": "train", **changed}, True)


def test_a_mark_that_cannot_be_read_now_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a disk that fails once; the same call would be refused for good."""
    begun(tmp_path)
    before = content(tmp_path)
    reading = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "inputs.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return reading(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        for call in (lambda: mark(tmp_path, "pairs"), lambda: claim(tmp_path), lambda: marked_by(tmp_path)):
            with pytest.raises(InputError, match=r"inputs.json: cannot be read \(Input/output error\)"):
                call()
    assert content(tmp_path) == before
    claim(tmp_path, resume=True)


@pytest.mark.parametrize("command", ["pretrain", "rate score"])
def test_what_a_killed_call_was_writing_goes_with_the_next_claim(tmp_path: Path, command: str) -> None:
    """And nothing that a living process is writing, nor what lies in the stages of a study."""
    claim = Claim(tmp_path, None, {}, {"command": command}, None)
    left = [tmp_path / "a/.999999999.x.png", tmp_path / ".999999999.inputs.json"]
    kept = [tmp_path / f".{os.getppid()}.x.png", tmp_path / "stages/a/.999999999.x.png", tmp_path / ".hidden"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    claim.write()
    assert [path for path in left if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


Begin = Callable[[Path, Config, bool, Path], Any]
COMMANDS: dict[str, Begin] = {
    "pretrain": lambda data, config, resume, out: pretrain(data, out, config, resume, "cpu"),
    "train": lambda data, config, resume, out: train(data, out, config=config, resume=resume, device="cpu"),
    "segment": lambda data, config, resume, out: segment(data, out, [], config=config, resume=resume, device="cpu"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_trains_refuses_before_it_writes(
    disc_pairs: DiscPairs, tmp_path: Path, command: str
) -> None:
    """A finished run, one without checkpoints, and a folder of something else: none is touched, whatever is asked
    for."""
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
        with pytest.raises(InputError, match=r"is the folder of --\w+"):
            begin(data, config, resume, data)
        with pytest.raises(InputError, match="holds files of something else"):
            begin(data, config, resume, moved)


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
