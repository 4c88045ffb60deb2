"""What the page stands on, without a browser: jobs, folders, desks, masks, drawings, uploads, ratings."""

import base64
import io
import json
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DiscPairs
from PIL import Image
from typer.testing import CliRunner

from siamese_diffusion.cli import app as cli
from siamese_diffusion.config import DataConfig, load_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.writer import made_here
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.files import read_json, read_jsonl
from siamese_diffusion.reader_study.rating import score_ratings
from siamese_diffusion.webapp import seen, sketch
from siamese_diffusion.webapp.app import app
from siamese_diffusion.webapp.desk import Desk, Row
from siamese_diffusion.webapp.drawing import Painter
from siamese_diffusion.webapp.jobs import Job, Jobs
from siamese_diffusion.webapp.pair_set import PairSet, Wish
from siamese_diffusion.webapp.phantom import phantom_run
from siamese_diffusion.webapp.ratings import clean, make
from siamese_diffusion.webapp.workspace import Workspace, pick

TAB = "0123456789ab"


def ended(jobs: Jobs, job: Job) -> Job:
    while job.open:
        jobs.wait(1)
    return job


@pytest.fixture
def jobs() -> Any:
    made = Jobs()
    yield made
    made.close()


def test_jobs_are_served_one_at_a_time_and_say_who_is_before_them(jobs: Jobs) -> None:
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def long(job: Job) -> None:
        begun.set()
        go_on.wait(60)
        order.append(job.owner)

    def short(job: Job) -> None:
        job.step(1, 2, "halfway")
        order.append(job.owner)

    first = jobs.submit("a", long)
    assert begun.wait(60)
    second, third = jobs.submit("b", short), jobs.submit("c", short)
    assert [jobs.ahead(job) for job in (first, second, third)] == [0, 1, 2]
    with pytest.raises(InputError, match="has a job in the line already"):
        jobs.submit("a", short)
    assert jobs.stop("b")
    assert second.state == "stopped"
    assert jobs.ahead(third) == 1
    go_on.set()
    assert ended(jobs, third).state == "done"
    assert (third.done, third.of, third.note) == (1, 2, "halfway")
    assert order == ["a", "c"]
    assert not jobs.stop("b")


def test_a_job_that_runs_stops_at_its_next_step_and_the_next_one_is_served(jobs: Jobs) -> None:
    begun = threading.Event()

    def endless(job: Job) -> None:
        while True:
            job.step(0, 0)
            begun.set()

    job = jobs.submit("a", endless)
    assert begun.wait(60)
    assert jobs.stop("a")
    assert ended(jobs, job).state == "stopped"
    assert ended(jobs, jobs.submit("a", lambda job: None)).state == "done"


def test_a_job_fails_with_one_line(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(job: Job) -> None:
        raise InputError("a file:\n  is damaged")

    def ours(job: Job) -> None:
        raise ZeroDivisionError("by zero\nand more")

    assert ended(jobs, jobs.submit("a", wrong)).note == "a file: is damaged"
    assert not capsys.readouterr().err
    failed = ended(jobs, jobs.submit("a", ours))
    assert (failed.state, failed.note) == ("failed", "ZeroDivisionError: by zero")
    assert "Traceback" in capsys.readouterr().err  # for who runs the page, not for who looks at it


def test_names_from_a_browser_stay_in_the_workspace(tmp_path: Path, pairs: Path) -> None:
    work = Workspace(tmp_path / "out", data=pairs)
    assert work.new_pairs(" my pairs-2 ") == tmp_path / "out/pairs/my pairs-2"
    for name in ("", " ", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "x" * 65, "a\0b", "a\nb", "dot.", "ä"):
        for place in (work.new_pairs, work.new_study, work.new_predictions):
            with pytest.raises(InputError, match="give a plain name"):
                place(name)
    (tmp_path / "out/pairs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/pairs/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link to somewhere else"):
        work.new_pairs("link")
    for tab in ("", "../" + TAB, TAB + "/..", TAB.upper(), "0" * 11, None):
        with pytest.raises(InputError, match="lost its place"):
            work.desk(tab)  # type: ignore[arg-type]
    for label in ("../pairs", str(pairs), "", None, ["a"]):
        with pytest.raises(InputError, match="is none of those that are open here"):
            pick(work.data, label, "folder")
    assert pick(work.data, pairs.name, "folder") == pairs


def test_a_workspace_lies_apart_and_is_its_own(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(InputError, match="lies inside"):
        Workspace(pairs / "out", data=pairs)
    with pytest.raises(InputError, match=r"--pairs .*none: no such folder"):
        Workspace(tmp_path / "out", pairs=[tmp_path / "none"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files of something else"):
        Workspace(tmp_path / "mine")
    Workspace(tmp_path / "out").open()
    assert len(DataFolder(tmp_path / "out/phantoms").pairs()) == 48
    Workspace(tmp_path / "out").open()  # the same again
    twins = [tmp_path / "a/made", tmp_path / "b/made"]
    for folder in twins:
        folder.mkdir(parents=True)
    assert list(Workspace(tmp_path / "out", pairs=twins).given) == [str(folder) for folder in twins]


def test_a_painted_mask_comes_and_goes_as_colours() -> None:
    classes = sketch.classes_of(["adenoma", "hyperplastic"])
    labels = np.zeros((sketch.SIDE, sketch.SIDE), np.uint8)
    labels[50:90, 60:200], labels[300:310, 40:50] = 1, 2
    picture = sketch.to_picture(labels, classes)
    np.testing.assert_array_equal(sketch.to_labels(picture, classes), labels)
    one = sketch.classes_of(["lesion"])
    np.testing.assert_array_equal(sketch.to_labels(picture, one), labels > 0)
    for wrong in ("", None, "data:image/png;base64,@", "data:image/png;base64,aGVsbG8=", "x" * 100, {"path": "/etc"}):
        with pytest.raises(InputError):
            sketch.to_labels(wrong, one)
    large = io.BytesIO()
    Image.new("RGBA", (4000, 4000)).save(large, "PNG")
    with pytest.raises(InputError, match="more than"):
        sketch.to_labels("data:image/png;base64," + base64.b64encode(large.getvalue()).decode(), one)


def row_of(mask: str, seed: int) -> Row:
    origin = {"synthetic": True, "checkpoint": "abc", "seed": seed, "sampler": {}, "source_mask": mask}
    return {
        "name": f"{mask}-{seed}", "mask": mask, "seed": seed, "dice": 0.5, "prompt": "A photo of polyp",
        "origin": origin, "kept": False, "saved": None,
    }  # fmt: skip


def drawn_on(desk: Desk, *seeds: int) -> list[str]:
    mask = np.zeros((32, 32), bool)
    mask[4:20, 6:18] = True
    name, _ = desk.begin(mask)
    for seed in seeds:
        desk.add(row_of(name, seed), np.full((32, 32, 3), 40 + seed, np.uint8), mask)
    return [f"{name}-{seed}" for seed in seeds]


def test_a_desk_is_found_as_it_was_left(tmp_path: Path) -> None:
    desk = Desk(tmp_path / TAB)
    assert desk.latest() == []
    assert desk.sketch() is None
    assert not desk.folder.exists()  # looking writes nothing
    first = drawn_on(desk, 1, 2)
    desk.keep(first[0], True)
    desk.set(count=3)
    labels = np.eye(sketch.SIDE, dtype=np.uint8)
    desk.save_sketch(labels)
    again = Desk(tmp_path / TAB)
    assert again.state()["settings"] == {"count": 3}
    np.testing.assert_array_equal(again.sketch(), labels)
    second = drawn_on(again, 5)
    assert [row["name"] for row in desk.latest()] == second
    assert [row["name"] for row in desk.kept()] == first[:1]  # what was not kept is gone, with its files
    assert {path.stem for path in (desk.folder / "images").iterdir()} == {first[0], *second}
    with pytest.raises(InputError, match="is not on this page any more"):
        desk.keep(first[1], True)
    with pytest.raises(InputError, match="nothing is kept yet"):
        Desk(tmp_path / "other").save_kept(tmp_path / "pairs")


def test_kept_pairs_are_an_ordinary_folder_that_grows(tmp_path: Path, disc_pairs: DiscPairs) -> None:
    desk, out = Desk(tmp_path / TAB), tmp_path / "saved"
    name = drawn_on(desk, 1, 2)[0]
    desk.keep(name, True)
    assert desk.save_kept(out) == 1
    assert desk.kept() == []
    other = drawn_on(desk, 7)[0]
    desk.keep(other, True)
    assert desk.save_kept(out) == 1
    found = {pair.name: pair for pair in DataFolder(out).pairs()}
    assert set(found) == {name, other}
    image, mask = found[other].read()
    assert (image == 47).all()
    assert mask.sum() == 16 * 12
    assert all(made_here(row) for row in read_jsonl(out / "pairs.jsonl"))
    desk.keep(drawn_on(desk, 9)[0], True)
    mine = disc_pairs(2)
    with pytest.raises(InputError, match="did not write"):
        desk.save_kept(mine)
    assert len(desk.kept()) == 1


def test_the_page_draws_what_sample_draws(pairs: Path, tmp_path: Path) -> None:
    """The same mask, seed and settings give the same pixels and the same line of the manifest."""
    desk, run = Desk(tmp_path / TAB), phantom_run(tmp_path / "run")
    mask = DataFolder(pairs).pairs()[0].mask.squared(64)
    name, path = desk.begin(mask)
    told: list[tuple[int, int]] = []
    painter = Painter("cpu", None)
    settings = {"steps": 2, "guidance": 1.5, "mask_guidance": 2.0}
    for drawn in painter.draw(run, (name, path), [7, 8], settings, lambda *step: told.append(step)):
        desk.add(*drawn)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for row in desk.latest():
        desk.keep(row["name"], True)
    desk.save_kept(tmp_path / "pairs")
    for seed in (7, 8):
        out = tmp_path / f"sample-{seed}"
        config = load_config(run / "config.yaml", ["sample.batch_size=1"])
        sample(run, path.parent, out, steps=2, guidance=1.5, mask_guidance=2.0, seed=seed, config=config, device="cpu")
        (expected,), (got,) = (
            [row for row in read_jsonl(folder / "pairs.jsonl") if row["seed"] == seed]
            for folder in (out, tmp_path / "pairs")
        )
        for kind in ("image", "mask"):
            ours, theirs = (Image.open(tmp_path / "pairs" / got[kind]), Image.open(out / expected[kind]))
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        assert {**got, "image": 0, "mask": 0} == {**expected, "image": 0, "mask": 0}
    with pytest.raises(InputError, match="steps = 0"):
        next(painter.draw(run, (name, path), [1], {"steps": 0}, lambda *step: None))


@pytest.fixture
def scored(tmp_path: Path, pairs: Path) -> tuple[Path, Path]:
    """Synthetic pairs with groups, and what `evaluate` found of them."""
    made, scores = tmp_path / "made", tmp_path / "scores"
    for kind in ("images", "masks"):
        (made / kind).mkdir(parents=True)
    rows = []
    for number, pair in enumerate(DataFolder(pairs).pairs()):
        image, mask = pair.read()
        Image.fromarray(image).save(made / "images" / f"p{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(made / "masks" / f"p{number}.png")
        files = {"image": f"images/p{number}.png", "mask": f"masks/p{number}.png"}
        rows.append({**files, "synthetic": True, "group": "ab"[number % 2]})
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores.mkdir()
    dice = [0.1, 0.9, 0.5, 0.8, 0.3, 0.7, 0.6, 0.2]
    (scores / "fit.csv").write_text(
        "name,dice,boundary\n" + "".join(f"p{i},{value},{(1 - value) / 10}\n" for i, value in enumerate(dice))
    )
    (scores / "novelty.csv").write_text(
        "name,real,distance,flip,by,flagged\n"
        + "".join(f"p{i},phantom-0000{i},{2 - value},none,whole,{int(i == 3)}\n" for i, value in enumerate(dice))
    )
    three = {"mean": 0.5, "low": 0.4, "high": 0.6}
    metrics = {
        "fit": {"dice": three, "shuffled": {"mean": 0.1, "low": 0.05, "high": 0.2}},
        "novelty": {"flagged": [{"synthetic": "p3"}]},
        "protocol": {"synthetic": str(made), "real": str(pairs)},
    }
    (scores / "metrics.json").write_text(json.dumps(metrics))
    return made, scores


def names(found: Any) -> list[str]:
    return [entry.name for entry in found]


def test_pairs_are_sorted_and_filtered(scored: tuple[Path, Path]) -> None:
    found = PairSet(*scored)
    assert names(found.view(Wish())) == [f"p{i}" for i in range(8)]
    assert names(found.view(Wish("worst"))) == ["p0", "p7", "p4", "p2", "p6", "p5", "p3", "p1"]
    assert names(found.view(Wish("best", min_dice=0.6))) == ["p1", "p3", "p5", "p6"]
    assert names(found.view(Wish("nearest", flagged="new")))[:2] == ["p1", "p5"]
    assert names(found.view(Wish("boundary", max_boundary=0.05))) == ["p2", "p6", "p5", "p3", "p1"]
    assert names(found.view(Wish(flagged="flagged"))) == ["p3"]
    assert found.groups == ["a", "b"]
    assert names(found.view(Wish("worst", group="b"))) == ["p7", "p5", "p3", "p1"]
    assert found.by_name["p3"].nearest == "phantom-00003"
    assert found.real()["phantom-00003"].name == "phantom-00003"
    bare = PairSet(scored[0], None)
    assert bare.scores is None
    assert names(bare.view(Wish("worst", min_dice=0.9))) == [f"p{i}" for i in range(8)]  # not known is not bad
    with pytest.raises(InputError, match="unknown"):
        found.view(Wish("shoe size"))


def test_the_subset_is_what_filter_writes(scored: tuple[Path, Path], tmp_path: Path) -> None:
    made, scores = scored
    found = PairSet(made, scores)
    result = found.write(tmp_path / "page", Wish("best", min_dice=0.25, flagged="new"), ["p6"])
    same = filter_(scores, tmp_path / "command", min_dice=0.25, drop_flagged=True, drop=["p6"])
    assert {**result, "out": 0} == {**same, "out": 0}
    assert (same["kept"], same["low"], same["flagged"], same["dropped"]) == (4, 2, 1, 1)
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "page", tmp_path / "command")
    ]
    assert files[0] == files[1]
    found.write(tmp_path / "group", Wish(group="a"), [])
    assert {pair.name for pair in DataFolder(tmp_path / "group").pairs()} == {"p0", "p2", "p4", "p6"}


def test_pairs_without_scores_are_dropped_by_name(scored: tuple[Path, Path], tmp_path: Path) -> None:
    made, scores = scored
    result = PairSet(made, None).write(tmp_path / "left", Wish(), ["p0", "p1"])
    assert (result["kept"], result["dice"]) == (6, None)
    with pytest.raises(InputError, match=r"--drop p9: .* has no pair of this name"):
        filter_(scores, tmp_path / "none", drop=["p9"])
    with pytest.raises(InputError, match="need --scores"):
        filter_(None, tmp_path / "none", min_dice=0.5, synthetic=made)
    with pytest.raises(InputError, match="which pairs"):
        filter_(None, tmp_path / "none", drop=["p1"])
    with pytest.raises(InputError, match="none of 8 pairs is left; ask for less"):
        filter_(None, tmp_path / "none", synthetic=made, drop=[f"p{i}" for i in range(8)])
    assert not (tmp_path / "none").exists()


class Reds:
    """A network that sees what is red."""

    data = DataConfig()

    def probability(self, image: Any, flips: bool = False) -> Any:
        return ((image[..., 0] > 150) & (image[..., 1] < 100)).astype(np.float32) * 0.9


def test_uploads_are_read_by_our_reader_and_told_where_they_are_not(tmp_path: Path) -> None:
    picture = np.full((40, 60, 3), 90, np.uint8)
    picture[5:15, 10:30] = (220, 60, 60)
    folder = tmp_path / "uploads"
    (folder / "other").mkdir(parents=True)
    Image.fromarray(picture).save(folder / "a <b>.png")
    Image.fromarray(picture[:, ::-1].copy()).save(folder / "other/a <b>.png")
    (folder / "broken.png").write_bytes((folder / "a <b>.png").read_bytes()[:60])
    (folder / "page.png").write_text("<script>alert(1)</script>")
    (folder / "program.exe").write_bytes(b"MZ")
    files = [folder / name for name in ("a <b>.png", "broken.png", "other/a <b>.png", "page.png", "program.exe")]
    steps: list[tuple[int, int]] = []
    out = tmp_path / "seen"
    found, refused = seen.see_all(files, Reds(), out, 0.5, False, lambda *step: steps.append(step))
    assert found == ["a -b", "a -b-2"]
    assert [line.partition(":")[0] for line in refused] == ["broken.png", "page.png", "program.exe"]
    assert str(tmp_path) not in "".join(refused)
    assert steps[-1] == (5, 5)
    assert [row["area"] for row in seen.table(out)] == ["200", "200"]
    mask = np.asarray(Image.open(out / "masks/a -b.png"))
    assert mask.shape == (40, 60)
    assert mask[5:15, 10:30].all()
    assert mask.sum() == 200
    assert [what for _, what in seen.views(out, "a -b-2")][:3] == ["image", "mask", "overlay"]
    with pytest.raises(InputError, match="is not there any more"):
        seen.views(out, "../../etc/passwd")
    with zipfile.ZipFile(seen.packed(out, out / "all.zip")) as archive:
        assert len(archive.namelist()) == 1 + 3 * 2
        assert not any("shown" in name for name in archive.namelist())  # the images are not handed on
    assert seen.saved(out, tmp_path / "kept") == 2
    assert (tmp_path / "kept/predictions.csv").is_file()
    with pytest.raises(InputError, match="is there already"):
        seen.saved(out, tmp_path / "kept")
    with pytest.raises(InputError, match=r"broken\.png"):
        seen.see_all(files[1:2], Reds(), out, 0.5, False, lambda *step: None)
    assert seen.table(out) == []


def test_a_reader_study_is_kept_on_the_server_and_scored_as_files_are(
    disc_pairs: DiscPairs, tmp_path: Path, pairs: Path
) -> None:
    study = make(tmp_path / "study", disc_pairs(6), [pairs], 4)
    order = study.order("Dr A")
    assert order == study.order("dr a")
    assert sorted(order) == sorted(study.order("B"))
    assert len(order) == 8
    key = {image["id"]: image["source"] for image in read_json(tmp_path / "study/key.json")["images"]}
    assert Image.open(io.BytesIO(study.image(order[0]))).size == (32, 32)
    for left, name in enumerate(order):
        assert study.rate("Dr A", name, 4, "real" if key[name] == "real" else "synthetic", 2.5) == 7 - left
        if not left:
            assert study.rate("Dr A", name, 5, "real", 1.0) == 7  # another mind, the same image
            assert study.sheets() == ([], 1)
            with pytest.raises(InputError, match="no reader has rated all images yet"):
                study.scores()
            study.rate("Dr A", name, 4, "real" if key[name] == "real" else "synthetic", 1.0)
    files, begun = study.sheets()
    assert (len(files), begun) == (1, 0)
    scores = study.scores()
    assert scores == score_ratings(files, tmp_path / "study/key.json")
    assert scores["readers"] == ["Dr A"]
    assert scores["answers"]["accuracy"]["value"] == 1
    for wrong in (("zz", 3, "real"), (order[0], 6, "real"), (order[0], 3, "maybe")):
        with pytest.raises(InputError):
            study.rate("Dr A", *wrong, 1.0)
    for reader in ("", "  ", "x" * 61, None, "a\0b"):
        with pytest.raises(InputError, match="your name or initials"):
            clean(reader)
    study.rate("../../x", order[0], 3, "real", 1.0)
    assert {path.parent for path in (tmp_path / "study").rglob("*.json")} == {
        tmp_path / "study", tmp_path / "study/ratings"
    }  # fmt: skip


def test_the_command_refuses_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIAMESE_DIFFUSION_PASSWORD", raising=False)
    out = str(tmp_path / "out")
    for options, words in (
        (["--listen"], "--listen: needs a password"),
        (["--run", str(tmp_path / "none")], "none: no such folder"),
    ):
        result = CliRunner().invoke(cli, ["app", "--out", out, *options])
        assert result.exit_code == 2
        assert words in result.output
        assert len(result.output.strip().splitlines()) == 1
    with pytest.raises(InputError, match="at least 8 characters"):
        app(out=tmp_path / "out", listen=True, password="short")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"needs gradio .*pip install 'siamese-diffusion\[app\]'"):
        app(out=tmp_path / "out")
