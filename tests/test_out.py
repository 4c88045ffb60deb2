"""What `--out` may be: every command in every other command's folder, in folders that are read, and in the user's
own."""

import functools
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DiscPairs
from PIL import Image
from test_cli import call_here
from test_original import CONFIG, SETTINGS, save, weights
from tiny import TINY

from siamese_diffusion.config import Config, build_config
from siamese_diffusion.data.copypaste import copy_paste
from siamese_diffusion.data.fetch.get import get_data
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.data.prepare import prepare
from siamese_diffusion.demonstration import demo
from siamese_diffusion.diffusion import original as original_module
from siamese_diffusion.diffusion import sample as sample_module
from siamese_diffusion.diffusion.checkpoint import load_trained
from siamese_diffusion.diffusion.original import export, import_
from siamese_diffusion.diffusion.pretrain import pretrain
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.files import read_json, read_jsonl, write_json
from siamese_diffusion.mask_training import train_masks
from siamese_diffusion.reader_study.rating import export_ratings, score_ratings
from siamese_diffusion.segmentation.export import export_network
from siamese_diffusion.segmentation.nnunet import export_nnunet
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.studies import study as study_module
from siamese_diffusion.studies.study import study

Tree = dict[str, bytes | str | None]
Command = Callable[[Path, bool], Any]


def tree(folder: Path) -> Tree:
    """All that lies in a folder, hidden files too: contents of files, None for folders, where links lead."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """A run's weights take longer to load than a command to refuse."""
    load = functools.cache(load_trained)
    with pytest.MonkeyPatch.context() as patch:
        for module in (sample_module, original_module):
            patch.setattr(module, "load_trained", load)
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, pairs: Path, run: Path, backbone: Path) -> dict[str, Path]:
    """What the commands read."""
    root = tmp_path_factory.mktemp("sources")
    with zipfile.ZipFile(root / "kvasir.zip", "w") as archive:
        for part in ("images", "masks"):
            file = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(file, "JPEG")
            archive.writestr(f"Kvasir-SEG/{part}/1.jpg", file.getvalue())
    shutil.copytree(pairs, root / "test")
    for image in (root / "test/images").iterdir():  # other images, of the same names
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    data = {"phantoms": {"train": str(pairs), "test": str(root / "test")}}
    study_file = {"data": data, "arms": {"real": None}, "seeds": {"segmentation": [0]}}
    write_json(root / "study.yaml", study_file | {"settings": {"data.split": None, "data.resolution": 32}})
    return {
        "pairs": pairs,
        "run": run,
        "backbone": backbone,
        "original": save(weights(), root / "original.ckpt"),
        "archive": root / "kvasir.zip",
        "study": root / "study.yaml",
    }


def config() -> Config:
    values = {**TINY, "segment": {"resolution": 32, "steps": 2, "sample_every": 2}, "evaluate": {"fit_steps": 2}}
    return build_config(values, "tests")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, Path]) -> dict[str, Path]:
    """A finished folder of every command."""
    root = tmp_path_factory.mktemp("finished")
    pairs = sources["pairs"]
    shutil.copytree(sources["run"], root / "train")
    shutil.copytree(sources["backbone"], root / "pretrain")
    shutil.copytree(pairs, root / "phantoms")
    commands = commands_of(sources, root)
    for name in COMMANDS:
        if name not in ("train", "pretrain", "phantoms", "demo", "rate score"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(study_module, "run_stages", lambda *_: {})
                commands[name](root / name, False)
    key = read_json(root / "rate export/key.json")
    rows = [{"id": image["id"], "rating": 3, "answer": "real"} for image in key["images"]]
    sheet = {"format": "siamese-diffusion ratings 1", "study": key["study"], "reader": "A", "ratings": rows}
    write_json(root / "sheet.json", sheet)
    commands["rate score"](root / "rate score", False)
    (root / "demo").mkdir()
    (root / "demo/summary.json").write_text("{}")
    return {name: root / name for name in COMMANDS}


COMMANDS = (
    *("train", "pretrain", "sample", "sample in shards", "evaluate", "filter", "segment", "phantoms", "copy-paste"),
    *("train-masks", "evaluate masks"),
    *("import", "export", "export a network", "export-nnunet", "study", "data get"),
    *("rate export", "rate score", "demo", "prepare"),
)
RESUMED = (
    *("prepare", "train", "pretrain", "sample", "sample in shards", "evaluate", "filter", "segment", "copy-paste"),
    *("train-masks", "evaluate masks"),
)


def commands_of(sources: dict[str, Path], root: Path) -> dict[str, Command]:
    """Every command that writes, as a function of its `--out` and `--resume`; those build on the folders in `root`."""
    pairs, run = sources["pairs"], sources["run"]
    settings: dict[str, Any] = {"config": config(), "device": "cpu"}
    made = root / "sample"

    def draw(out: Path, resume: bool, format: str = "folder") -> Any:
        return sample(run, pairs, out, resume=resume, format=format, device="cpu")

    return {
        "train": lambda out, resume: train(pairs, out, str(sources["backbone"]), resume=resume, **settings),
        "pretrain": lambda out, resume: pretrain(pairs, out, resume=resume, **settings),
        "sample": draw,
        "sample in shards": lambda out, resume: draw(out, resume, "webdataset"),
        "evaluate": lambda out, resume: evaluate(pairs, made, out, resume=resume, **settings),
        "train-masks": lambda out, resume: train_masks(pairs, out, resume=resume, **settings),
        "evaluate masks": lambda out, resume: evaluate(pairs, None, out, masks=made, resume=resume, **settings),
        "filter": lambda out, resume: filter_(root / "evaluate", out, max_boundary=1.0, resume=resume, anyway=True),
        "segment": lambda out, resume: segment(pairs, out, [], resume=resume, **settings),
        "phantoms": lambda out, resume: make_phantoms(out, 8, 32, seed=3),
        "copy-paste": lambda out, resume: copy_paste(DataFolder(pairs).pairs(), out, 32, "polyp", resume=resume),
        "prepare": lambda out, resume: prepare(pairs, out, resume=resume),
        "import": lambda out, resume: import_(
            sources["original"], out, config=build_config(SETTINGS, "tests"), unet_config=CONFIG
        ),
        "export": lambda out, resume: export(run, out),
        "export a network": lambda out, resume: export_network(root / "segment", out, "safetensors"),
        "export-nnunet": lambda out, resume: export_nnunet(pairs, out, "x", folds=1),
        "study": lambda out, resume: study(sources["study"], out, device="cpu"),
        "data get": lambda out, resume: get_data("kvasir-seg", out, True, [sources["archive"]]),
        "rate export": lambda out, resume: export_ratings(pairs, [made], out, count=2),
        "rate score": lambda out, resume: score_ratings([root / "sheet.json"], root / "rate export/key.json", out),
        "demo": lambda out, resume: demo(out, "smallest", "cpu"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_touches_what_another_one_made(
    name: str, sources: dict[str, Path], finished: dict[str, Path]
) -> None:
    """Nor what it made itself, unless it is to go on with it; refused in one line, which never advises to resume it."""
    command = commands_of(sources, finished["train"].parent)[name]
    for other, folder in finished.items():
        if other == name and name in ("phantoms", "study", "rate score", "data get"):
            continue  # the same call again, which goes on and finds nothing to do
        before = tree(folder)
        assert len(before) > 1 or other == "demo"
        for resume in (False, True) if name in RESUMED and other != name else (False,):
            with pytest.raises(InputError) as refused:
                command(folder, resume)
            message = str(refused.value)
            assert message.startswith(("--out", "--resume")), (other, message)
            assert "\n" not in message
            assert ("add --resume" in message) == (other == name and name in RESUMED), (other, message)
            assert tree(folder) == before, other


@pytest.mark.parametrize(
    "name",
    [
        *("prepare", "phantoms", "rate score", "data get", "sample", "sample in shards", "filter", "evaluate"),
        "evaluate masks",
    ],
)
def test_the_same_call_again_changes_nothing(
    name: str, sources: dict[str, Path], finished: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(finished[name], tmp_path / "again")
    commands_of(sources, finished["train"].parent)[name](tmp_path / "again", True)
    assert tree(tmp_path / "again") == tree(finished[name])


def data_of(tmp_path: Path, disc_pairs: DiscPairs) -> Path:
    """A user's folder: 12 pairs, of which its own `pairs.jsonl` lists 8."""
    folder = disc_pairs(name="mine")
    rows = [{"image": f"images/{i:03d}.png", "mask": f"masks/{i:03d}.png", "prompt": "a polyp"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_nobodys_own_pairs_are_touched(
    name: str,
    emptied: bool,
    sources: dict[str, Path],
    finished: dict[str, Path],
    disc_pairs: DiscPairs,
    tmp_path: Path,
) -> None:
    folder = data_of(tmp_path, disc_pairs)
    if emptied:
        (folder / "pairs.jsonl").write_text("")
    (tmp_path / "link").symlink_to(folder)
    before = tree(folder)
    command = commands_of(sources, finished["train"].parent)[name]
    for out in (folder, tmp_path / "link", folder / "images", folder / "masks"):
        for resume in (False, True):
            with pytest.raises(InputError) as refused:
                command(out, resume)
            assert "--resume" not in str(refused.value)
            assert tree(folder) == before


def test_no_command_writes_into_what_it_reads(
    finished: dict[str, Path], sources: dict[str, Path], disc_pairs: DiscPairs, tmp_path: Path
) -> None:
    mine = data_of(tmp_path, disc_pairs)
    data, run = finished["sample"], sources["run"]
    apart: dict[str, Any] = {"config": config(), "device": "cpu"}
    file = tmp_path / "study.yaml"
    write_json(file, {"data": {"mine": {"train": str(mine)}}, "arms": {"real": None}})
    kept = finished["evaluate"].parent / "evaluate"
    calls: dict[str, tuple[Path, Callable[[Path], Any]]] = {
        "--data": (mine, lambda out: train(mine, out, **apart)),
        "--images": (mine, lambda out: pretrain(mine, out, **apart)),
        "--masks": (mine, lambda out: sample(run, mine, out, device="cpu")),
        "--real": (mine, lambda out: evaluate(mine, data, out, **apart)),
        "--synthetic": (mine, lambda out: evaluate(data, mine, out, **apart)),
        "--cache": (mine, lambda out: evaluate(data, mine, tmp_path / "new", cache=out, **apart)),
        "--scores": (kept, lambda out: filter_(kept, out, max_boundary=1.0, anyway=True)),
        "filter's --synthetic": (data, lambda out: filter_(kept, out, max_boundary=1.0, anyway=True)),
        "--train": (mine, lambda out: segment(mine, out, [], **apart)),
        "--test": (mine, lambda out: segment(data, out, [mine], **apart)),
        "segment's --synthetic": (mine, lambda out: segment(data, out, [], [data, mine], **apart)),
        "study's --data": (mine, lambda out: study(file, out)),
        "rate's --real": (mine, lambda out: export_ratings(mine, [data], out, 2)),
        "rate's --synthetic": (mine, lambda out: export_ratings(data, [mine], out, 2)),
    }
    for option, (folder, call) in calls.items():
        before = tree(folder)
        for out in (
            folder,
            folder / "new",
            folder / "new/new",
            folder / "images/new",
            folder / "../" / folder.name / "new",
        ):
            with pytest.raises(InputError, match=r"(is the folder of|lies inside)") as refused:
                call(out)
            assert f"{option.split()[-1]}" in str(refused.value)
            assert "--resume" not in str(refused.value)
            assert tree(folder) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["sample", "filter", "evaluate", "phantoms", "export", "rate score"])
def test_an_empty_name_is_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {
        "sample": ["--checkpoint", "x", "--masks", "x"],
        "filter": ["--scores", "x"],
        "evaluate": ["--real", "x", "--synthetic", "x"],
        "export": ["--checkpoint", "x"],
        "rate score": ["x", "--key", "x"],
    }
    for empty in ("", " "):
        result = call_here(*name.split(), *options.get(name, []), "--out", empty)
        assert result.returncode == 2
        assert result.stderr.startswith("error: --out ''")
        assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def without_marks(folder: Path, to: Path, *more: str) -> Path:
    """A folder as an earlier version left it."""
    shutil.copytree(folder, to)
    for name in ("inputs.json", *more):
        (to / name).unlink(missing_ok=True)
    return to


def test_pairs_of_an_earlier_version_are_gone_on_with(
    sources: dict[str, Path], finished: dict[str, Path], tmp_path: Path
) -> None:
    """They bear no mark; their rows tell that they are ours. Files beside them that no row names are left alone."""
    commands = commands_of(sources, finished["train"].parent)
    for name in ("sample", "sample in shards", "copy-paste", "filter"):
        out = without_marks(finished[name], tmp_path / name, "config.yaml")
        if name == "sample in shards":
            (out / "shards/.99.pairs-0000-000001.tar").write_bytes(b"half")
        else:
            rows = read_jsonl(out / "pairs.jsonl")
            (out / rows[0]["image"]).unlink()  # deleted
            (out / "pairs.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows[:-1])
            )  # killed before the last
            (out / "images/.99.half.png").write_bytes(b"half")
            (out / "images/mine.png").write_bytes(b"mine")
        with pytest.raises(InputError, match="already holds pairs; add --resume"):
            commands[name](out, False)
        commands[name](out, True)
        expected = tree(finished[name])
        if name != "sample in shards":
            expected["images/mine.png"] = b"mine"
        assert tree(out) == expected, name
    rows = read_jsonl(tmp_path / "sample/pairs.jsonl")
    out = without_marks(finished["sample"], tmp_path / "other", "config.yaml")
    before = tree(out)
    with pytest.raises(InputError, match="pair phantom-00000 has seed 0, not 5"):
        sample(sources["run"], sources["pairs"], out, seed=5, resume=True, device="cpu")
    with pytest.raises(InputError, match="holds pair phantom-00000, which is not one of these"):
        sample(sources["run"], sources["pairs"], out, per_mask=2, resume=True, device="cpu")
    assert tree(out) == before
    (out / "pairs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "checkpoint": None}])
    )
    with pytest.raises(InputError, match="holds files of something else"):
        sample(sources["run"], sources["pairs"], out, resume=True, device="cpu")


def test_an_evaluation_of_an_earlier_version_is_gone_on_with(
    sources: dict[str, Path], finished: dict[str, Path], tmp_path: Path
) -> None:
    evaluating = commands_of(sources, finished["train"].parent)["evaluate"]
    whole = read_json(finished["evaluate"] / "metrics.json")
    out = without_marks(finished["evaluate"], tmp_path / "finished")
    before = tree(out)
    assert evaluating(out, True) == whole
    with pytest.raises(InputError, match="already holds results"):
        evaluating(out, False)
    with pytest.raises(InputError, match="evaluation of other pairs or features"):
        evaluate(sources["pairs"], finished["copy-paste"], out, config(), resume=True, features="clip", device="cpu")
    assert tree(out) == before
    tables = ("fit.csv", "novelty.csv", "worst.png", "report.html", "metrics.json")
    for name, gone in (("judged", ("config.yaml", *tables)), ("tabled", ("metrics.json",))):
        out = without_marks(finished["evaluate"], tmp_path / name, *gone)
        found = evaluating(out, True)
        assert {**found, "protocol": None} == {**whole, "protocol": None}
    (tmp_path / "features").mkdir()
    (tmp_path / "features/features").mkdir()
    (tmp_path / "features/features/mine.npy").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds files of something else"):
        evaluating(tmp_path / "features", True)


def test_a_study_of_an_earlier_version_is_gone_on_with(
    sources: dict[str, Path], finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "run_stages", lambda *_: {})
    out = without_marks(finished["study"], tmp_path / "study")
    study(sources["study"], out, device="cpu")
    assert tree(out).keys() == tree(finished["study"]).keys()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/table.md").write_text("mine")
    for dry in (False, True):
        with pytest.raises(InputError, match=r"holds files of something else \(table\.md\)"):
            study(sources["study"], tmp_path / "mine", dry_run=dry)
    file = tmp_path / "with/study.yaml"  # the file itself may lie there
    file.parent.mkdir()
    shutil.copy(sources["study"], file)
    study(file, file.parent, device="cpu")


def test_options_and_inputs_are_kept_by_what_is_resumed(
    sources: dict[str, Path], finished: dict[str, Path], disc_pairs: DiscPairs, tmp_path: Path
) -> None:
    pairs, run = sources["pairs"], sources["run"]
    other = disc_pairs(count=8)
    apart: dict[str, Any] = {"resume": True, "device": "cpu"}
    again: dict[str, Any] = {"resume": True, "anyway": True}
    scored, settings = finished["evaluate"], config()
    changed = settings.model_copy(update={"data": settings.data.model_copy(update={"resolution": 64})})
    out = {name: tmp_path / name for name in ("sample", "filter", "evaluate")}
    for name, folder in out.items():
        shutil.copytree(finished[name], folder)
    assert len(DataFolder(out["filter"]).images()) == 8
    write_json(tmp_path / "scores/metrics.json", read_json(scored / "metrics.json"))
    worse = (scored / "fit.csv").read_text().replace("phantom-00000,0.", "phantom-00000,0.0")
    (tmp_path / "scores/fit.csv").write_text(worse)
    made = finished["sample"]
    evaluating = {"config": settings, **apart}
    calls: list[tuple[str, str, Callable[[], Any]]] = [
        ("sample", r"sample\.seed = 5", lambda: sample(run, pairs, out["sample"], seed=5, **apart)),
        ("sample", r"sample\.steps = 2", lambda: sample(run, pairs, out["sample"], steps=2, **apart)),
        ("sample", "--per-mask 2", lambda: sample(run, pairs, out["sample"], 2, **apart)),
        ("sample", "--random-masks flip", lambda: sample(run, pairs, out["sample"], random_masks="flip", **apart)),
        ("sample", "--format webdataset", lambda: sample(run, pairs, out["sample"], format="webdataset", **apart)),
        ("sample", r"other input \(files", lambda: sample(run, other, out["sample"], **apart)),
        ("filter", r"--max-boundary 0\.9", lambda: filter_(scored, out["filter"], max_boundary=0.9, **again)),
        ("filter", r"--min-dice 0\.1", lambda: filter_(scored, out["filter"], 0.0, 1.0, **again)),
        ("filter", "--drop-flagged True", lambda: filter_(scored, out["filter"], None, 1.0, True, **again)),
        (
            "filter",
            r"other input \(scores",
            lambda: filter_(tmp_path / "scores", out["filter"], None, 1.0, **again),
        ),
        ("evaluate", "--features clip", lambda: evaluate(pairs, made, out["evaluate"], features="clip", **evaluating)),
        ("evaluate", r"data\.resolution = 64", lambda: evaluate(pairs, made, out["evaluate"], changed, **apart)),
        ("evaluate", r"other input \(files", lambda: evaluate(pairs, other, out["evaluate"], **evaluating)),
        ("evaluate", r"other input \(judge", lambda: evaluate(pairs, made, out["evaluate"], judge=judge, **evaluating)),
    ]
    judge = out["evaluate"] / "judge"
    for name, words, call in calls:
        before = tree(out[name])
        with pytest.raises(InputError, match=words.replace(r"0\.1", r"0\.0")):
            call()
        assert tree(out[name]) == before, words
