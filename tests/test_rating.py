"""The reader study: blinding, the page in a browser, and the statistics against published examples."""

import base64
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Browser
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from siamese_diffusion.cli import app
from siamese_diffusion.errors import InputError
from siamese_diffusion.reader_study.agreement import (
    alpha_interval,
    crossed_means,
    krippendorff_alpha,
    percentiles,
    wilson,
)
from siamese_diffusion.reader_study.rating import export_ratings, render_scores, score_ratings

NAN = np.nan


def folder(path: Path, count: int, size: tuple[int, int], seed: int, kind: str = "png") -> Path:
    path.mkdir()
    random = np.random.default_rng(seed)
    for i in range(count):
        note = PngInfo()
        note.add_text("Software", "the generator")
        red = random.integers((130, 0, 0), (255, 60, 60), (*size[::-1], 3))
        picture = Image.fromarray(red.astype(np.uint8))
        picture.save(path / f"{path.name}-secret-{i}.{kind}", pnginfo=note)
    return path


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    real = folder(tmp_path / "hospital", 8, (60, 40), 0, "jpg")
    fakes = [folder(tmp_path / name, 6, (48, 48), seed) for seed, name in ((1, "ours"), (2, "theirs"))]
    return export_ratings(real, fakes, tmp_path / "out", count=6, seed=3)


def embedded(page: Path) -> dict[str, Any]:
    text = page.read_text().split('<script type="application/json" id="study">')[1].split("</script>")[0]
    found: dict[str, Any] = json.loads(text)
    return found


def test_page_says_nothing_of_where_an_image_comes_from(study: dict[str, Any]) -> None:
    assert study["sources"] == {"real": 6, "ours": 6, "theirs": 6}
    page = Path(study["page"])
    for word in ("secret", "hospital", "ours", "theirs", "Software", str(page.parent)):
        assert word not in page.read_text()
    data = embedded(page)
    assert set(data) == {"format", "study", "side", "images"}
    key = json.loads(Path(study["key"]).read_text())
    assert [name for name, _ in data["images"]] == [image["id"] for image in key["images"]]
    sizes = set()
    for _, coded in data["images"]:
        picture = Image.open(io.BytesIO(base64.b64decode(coded)))
        assert picture.info == {}
        sizes.add((picture.format, picture.mode, picture.size))
    assert sizes == {("PNG", "RGB", (40, 40))}  # the shortest side of any image: nothing is enlarged
    assert len({image["file"] for image in key["images"]}) == 18


def test_key_is_that_of_the_images(study: dict[str, Any]) -> None:
    from siamese_diffusion.data.images import read_image, square

    key = {image["id"]: image for image in json.loads(Path(study["key"]).read_text())["images"]}
    for name, coded in embedded(Path(study["page"]))["images"]:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))
        assert (shown == square(read_image(Path(key[name]["file"])), 40)).all()
        assert ("hospital" in key[name]["file"]) == (key[name]["source"] == "real")


def test_seed_gives_the_draw_but_neither_names_nor_order(tmp_path: Path) -> None:
    real, fake = folder(tmp_path / "hospital", 9, (32, 32), 0), folder(tmp_path / "fake", 9, (32, 32), 1)

    def draw(name: str, count: int = 6, seed: int = 3) -> tuple[list[str], set[str], list[str]]:
        export_ratings(real, [fake], tmp_path / name, count=count, seed=seed)
        images = json.loads((tmp_path / name / "key.json").read_text())["images"]
        return (
            [image["id"] for image in images],
            {image["file"] for image in images},
            [image["file"] for image in images],
        )

    (names, files, order), (names_2, files_2, order_2) = draw("a"), draw("b")
    assert files == files_2
    assert not set(names) & set(names_2)
    assert order != order_2  # by chance once in 12!
    assert draw("c", seed=4)[1] != files
    assert draw("d", count=4)[1] < files


def test_export_refuses(tmp_path: Path, study: dict[str, Any]) -> None:
    real, fake = tmp_path / "hospital", tmp_path / "ours"
    fine: dict[str, Any] = {"real": real, "synthetic": [fake], "out": tmp_path / "new", "count": 2}
    for change, words in (
        ({"out": tmp_path / "out"}, "already holds a key"),
        ({"count": 7}, "--count 7: .*ours has 6 images"),
        ({"count": 0}, "--count 0"),
        ({"resolution": 4}, "--resolution 4"),
        ({"synthetic": [fake, fake]}, "ours: is given twice"),
        ({"synthetic": [real]}, "is the folder of --real"),
        ({"synthetic": []}, "--synthetic"),
        ({"synthetic": [tmp_path / "none"]}, "none is not a folder"),
    ):
        with pytest.raises(InputError, match=words):
            export_ratings(**{**fine, **change})
    torn = fake / "ours-secret-0.png"
    torn.write_bytes(torn.read_bytes()[:80])
    with pytest.raises(InputError, match=r"ours-secret-0.png"):
        export_ratings(**{**fine, "count": 6})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("marked", [True, False])
def test_an_export_that_was_cut_short_goes_on_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: dict[str, Any], marked: bool
) -> None:
    """Between the key and the page; the page that comes after is the one that would have been, bit for bit."""
    key, page = Path(study["key"]), Path(study["page"])
    whole, opened = key.read_text(), page.read_bytes()
    fine: dict[str, Any] = {
        "real": tmp_path / "hospital",
        "synthetic": [tmp_path / name for name in ("ours", "theirs")],
    }
    fine |= {"out": tmp_path / "out", "count": 6, "seed": 3}
    with pytest.raises(InputError, match="already holds a key"):
        export_ratings(**fine)
    page.unlink()
    if not marked:
        (tmp_path / "out/inputs.json").unlink()  # as an earlier version left it
    for change in ({"seed": 4}, {"count": 5}, {"resolution": 32}, {"synthetic": [tmp_path / "ours"]}):
        with pytest.raises(InputError, match=r"(was begun|key of other images).*name another folder") as refused:
            export_ratings(**{**fine, **change})
        assert "--resume" not in str(refused.value)
        assert not page.exists()
    again = export_ratings(**fine)
    assert again == study
    assert (key.read_text(), page.read_bytes()) == (whole, opened)
    with pytest.raises(InputError, match="already holds a key"):
        export_ratings(**fine)


def test_a_full_disk_between_key_and_page_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = folder(tmp_path / "hospital", 3, (32, 32), 0), folder(tmp_path / "fake", 3, (32, 32), 1)
    write = Path.write_text

    def full(self: Path, *arguments: Any, **keywords: Any) -> int:
        if self.name.endswith("rate.html"):
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(
            InputError, match=r"rate\.html: no space left on the disk; free some and run the same"
        ) as refused:
            export_ratings(real, [fake], tmp_path / "out", count=3)
    assert "--resume" not in str(refused.value)
    key = json.loads((tmp_path / "out/key.json").read_text())
    made = export_ratings(real, [fake], tmp_path / "out", count=3)
    assert made["study"] == key["study"]
    assert [name for name, _ in embedded(Path(made["page"]))["images"]] == [image["id"] for image in key["images"]]


# ------------------------------------------------------------------------------------------------------------- the page

DRIVE = """
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true}));
const enter = (name) => { byId("reader").value = name; byId("reader").dispatchEvent(new Event("input"));
                          byId("who").requestSubmit(); };
const report = (name, text) => { const p = document.createElement("pre"); p.id = name; p.textContent = text;
                                 document.body.append(p); };
window.addEventListener("error", (event) => report("failure", event.message));
document.addEventListener("securitypolicyviolation", (event) => report("violation", event.blockedURI));
const make = URL.createObjectURL;
URL.createObjectURL = (blob) => { blob.text().then((text) => report("saved", text)); return make(blob); };
"""


@pytest.fixture
def browse(browser: Browser, tmp_path: Path) -> Callable[..., str]:
    """Open a copy of the page with a script at its end; what stands in the document afterwards."""

    def open_page(page: str, script: str, *flags: str) -> str:
        copy = tmp_path / "copy.html"
        copy.write_text(Path(page).read_text().replace("</body>", f"<script>{DRIVE}{script}</script></body>"))
        return browser(copy, "--virtual-time-budget=5000", *flags)

    return open_page


def written(document: str, name: str) -> str | None:
    found = re.search(rf'<pre id="{name}">(.*?)</pre>', document, re.DOTALL)
    return html.unescape(found[1]) if found else None


@pytest.mark.browser
def test_ratings_given_by_keyboard_end_in_the_saved_file(
    study: dict[str, Any], browse: Callable[..., str], tmp_path: Path
) -> None:
    """Each image gets a rating and an answer that follow from its identity, so that a mix-up would show."""
    script = """
    enter("  Dr. <Änne>  O'Hara ");
    press("Enter");  // not yet rated: stays
    report("first", byId("progress").textContent);
    press("2"); press("r"); press("Enter"); press("ArrowLeft");  // a mistake, taken back below
    for (let i = 0; i < order.length; i++) {
      press(String(1 + order[i].charCodeAt(0) % 5)); press(order[i].charCodeAt(1) % 2 ? "R" : "s"); press("Enter");
    }
    report("end", byId("done").hidden + byId("file").textContent);
    press("Enter");
    """
    document = browse(study["page"], script, "--dump-dom")
    assert written(document, "failure") is None
    assert written(document, "violation") is None
    assert written(document, "first") == "Image 1 of 18, 0 rated"
    assert written(document, "end") == "falseratings-Dr-Änne-O-Hara.json"
    saved = written(document, "saved")
    assert saved is not None
    sheet = json.loads(saved)
    assert sheet["reader"] == "Dr. <Änne> O'Hara"
    assert [row["position"] for row in sheet["ratings"]] == list(range(1, 19))
    for row in sheet["ratings"]:
        assert row["rating"] == 1 + ord(row["id"][0]) % 5
        assert row["answer"] == ("real" if ord(row["id"][1]) % 2 else "synthetic")
    order = [row["id"] for row in sheet["ratings"]]
    assert order != [name for name, _ in embedded(Path(study["page"]))["images"]]  # an order of the reader's own

    (tmp_path / "saved.json").write_text(saved)
    scores = score_ratings([tmp_path / "saved.json"], Path(study["key"]))
    key = {image["id"]: image["source"] for image in json.loads(Path(study["key"]).read_text())["images"]}
    for source in ("real", "ours", "theirs"):
        expected = [row["rating"] for row in sheet["ratings"] if key[row["id"]] == source]
        assert scores["sources"][source]["mos"]["mean"] == pytest.approx(np.mean(expected))


@pytest.mark.browser
def test_answers_are_kept_over_a_reload_for_every_reader(study: dict[str, Any], browse: Callable[..., str]) -> None:
    script = """
    if (!sessionStorage.getItem("second")) {
      sessionStorage.setItem("second", "1");
      enter("A"); for (const key of ["5", "r", "Enter", "1", "s", "Enter", "3"]) press(key);
      location.reload();
    } else {
      report("prefilled", byId("reader").value + ": " + byId("known").textContent);
      enter("B");
      report("other", byId("progress").textContent);
      begin("a");
      report("same", byId("progress").textContent + " " + document.querySelector("[aria-checked=true]").dataset.rating);
      press("ArrowLeft");
      report("before", document.querySelector("[data-rating][aria-checked=true]").dataset.rating);
    }
    """
    document = browse(study["page"], script, "--dump-dom")
    assert written(document, "failure") is None
    assert written(document, "prefilled") == "A: You go on where you stopped: 2 of 18 images are rated."
    assert written(document, "other") == "Image 1 of 18, 0 rated"
    assert written(document, "same") == "Image 3 of 18, 2 rated 3"
    assert written(document, "before") == "1"


@pytest.mark.browser
def test_page_shows_the_image(study: dict[str, Any], browse: Callable[..., str], tmp_path: Path) -> None:
    """The picture, all red, fills a square of 24 rem (it is not enlarged past that for 40 pixels), the panel beside
    it."""
    browse(study["page"], 'enter("A");', f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1280,800")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    red = shot[..., 0] - shot[..., 1] > 50
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert (len(rows), len(columns)) == (384, 384)
    assert red.sum() > 0.99 * 384**2
    assert (shot[:, columns.max() + 20 :] > 180).all(2).any()  # its text


# ------------------------------------------------------------------------------------------------------------- scoring


def sheet_of(study: dict[str, Any], path: Path, reader: str, rate: Callable[[dict[str, Any]], tuple[int, str]]) -> Path:
    key = json.loads(Path(study["key"]).read_text())
    rows = []
    for position, image in enumerate(key["images"], start=1):
        rating, answer = rate(image)
        rows.append({"id": image["id"], "position": position, "rating": rating, "answer": answer, "seconds": 1.5})
    sheet = {"format": "siamese-diffusion ratings 1", "study": key["study"], "reader": reader, "ratings": rows}
    path.write_text(json.dumps(sheet))
    return path


def number(image: dict[str, Any]) -> int:
    return int(Path(image["file"]).stem.rpartition("-")[2])


def test_scores_of_a_study_known_by_hand(study: dict[str, Any], tmp_path: Path) -> None:
    """Reader A is never wrong; reader B calls everything real and rates one lower."""
    quality = {"real": 5, "ours": 4, "theirs": 2}

    def right(image: dict[str, Any]) -> tuple[int, str]:
        return quality[image["source"]], "real" if image["source"] == "real" else "synthetic"

    files = [
        sheet_of(study, tmp_path / "a.json", "A", right),
        sheet_of(study, tmp_path / "b.json", "B", lambda i: (quality[i["source"]] - 1, "real")),
    ]
    scores = score_ratings(files, Path(study["key"]), tmp_path / "scores")
    sources = scores["sources"]
    assert [sources[name]["mos"]["mean"] for name in quality] == [4.5, 3.5, 1.5]
    assert sources["ours"]["ratings"] == {"1": 0, "2": 0, "3": 6, "4": 6, "5": 0}
    assert sources["theirs"]["readers"] == {"A": 2.0, "B": 1.0}
    assert sources["real"]["mos"] == {"mean": 4.5, "low": 4.0, "high": 5.0}  # both readers, or one of them twice
    assert sources["ours"]["difference"] == {"mean": -1.0, "low": -1.0, "high": -1.0}  # the same readers rated both
    assert sources["ours"]["called_real"] == wilson(6, 12)
    assert sources["ours"]["accuracy"] == wilson(12 + 6, 24)
    assert scores["answers"]["accuracy"] == wilson(12 + 12, 36)
    assert scores["answers"]["sensitivity"] == wilson(12, 24)
    assert scores["answers"]["specificity"] == wilson(12, 12)
    assert scores["answers"]["readers"]["A"]["accuracy"] == wilson(18, 18)
    assert scores["answers"]["readers"]["B"]["sensitivity"] == wilson(0, 12)
    both = np.array([[5] * 6 + [4] * 6 + [2] * 6, [4] * 6 + [3] * 6 + [1] * 6], float)
    assert scores["agreement"]["ratings"]["value"] == pytest.approx(krippendorff_alpha(both))
    assert json.loads((tmp_path / "scores/scores.json").read_text()) == scores
    rows = (tmp_path / "scores/ratings.csv").read_text().splitlines()
    assert len(rows) == 1 + 36
    assert sum(row.startswith("A,theirs,") for row in rows) == 6
    for words in ("2 readers: A, B", "MOS 4.50 [4.00, 5.00]", "sensitivity 0.50", "alpha, ratings"):
        assert words in render_scores(scores)


def test_scores_of_other_files_are_not_overwritten(study: dict[str, Any], tmp_path: Path) -> None:
    key, out = Path(study["key"]), tmp_path / "scores"
    files = [sheet_of(study, tmp_path / f"{name}.json", name, lambda i: (3, "real")) for name in ("A", "B")]
    first = score_ratings(files[:1], key, out)
    assert score_ratings(files[:1], key, out) == first
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(
        InputError, match=r"was begun from other input \(readers, see inputs\.json\); name another folder"
    ):
        score_ratings(files, key, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/ratings.csv").write_text("mine")
    for folder in (tmp_path / "mine", key.parent):
        with pytest.raises(InputError, match="name an"):
            score_ratings(files, key, folder)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert (tmp_path / "mine/ratings.csv").read_text() == "mine"


def test_one_reader_has_no_agreement_and_an_interval_over_images(study: dict[str, Any], tmp_path: Path) -> None:
    file = sheet_of(study, tmp_path / "a.json", "A", lambda i: (1 + number(i) % 5, "real"))
    scores = score_ratings([file], Path(study["key"]))
    assert scores["agreement"] == {"ratings": None, "answers": None}
    assert "one reader" in scores["protocol"]["mos"]
    mos = scores["sources"]["ours"]["mos"]
    assert mos["low"] < mos["mean"] < mos["high"]
    assert "alpha, ratings: one reader" in render_scores(scores)


def test_scoring_refuses(study: dict[str, Any], tmp_path: Path) -> None:
    key = Path(study["key"])
    good = sheet_of(study, tmp_path / "good.json", "A", lambda i: (3, "real"))

    def changed(name: str, change: Callable[[dict[str, Any]], object]) -> Path:
        sheet = json.loads(good.read_text())
        change(sheet)
        (tmp_path / name).write_text(json.dumps(sheet))
        return tmp_path / name

    torn = tmp_path / "torn.json"
    torn.write_bytes(good.read_bytes()[:-30])
    cases: list[tuple[list[Path], str]] = [
        ([torn], "torn.json: not valid JSON"),
        ([tmp_path / "none.json"], "none.json: no such file"),
        ([key], "key.json: is not a file that the rating page saved"),
        (
            [good, changed("twin.json", lambda s: s.update(reader="a"))],
            "twin.json: is of the reader a, as is .*good.json",
        ),
        ([changed("other.json", lambda s: s.update(study="ff"))], "other.json: is of another study"),
        ([changed("short.json", lambda s: s["ratings"].pop())], "short.json: rates 17 of 18 images; ask A"),
        ([changed("six.json", lambda s: s["ratings"][2].update(rating=6))], "six.json: rating 3 is 6"),
        ([changed("half.json", lambda s: s["ratings"][2].update(rating=2.5))], "half.json: rating 3 is 2.5"),
        ([changed("true.json", lambda s: s["ratings"][2].update(rating=True))], "true.json: rating 3 is True"),
        ([changed("maybe.json", lambda s: s["ratings"][1].update(answer="maybe"))], "maybe.json: answer 2 is maybe"),
        ([changed("twice.json", lambda s: s["ratings"].append(s["ratings"][0]))], "twice.json: rates an image twice"),
        ([changed("odd.json", lambda s: s["ratings"][0].update(id="zz"))], "odd.json: rating 1 is of an image that"),
        (
            [changed("list.json", lambda s: s["ratings"][0].update(id=["zz"]))],
            "list.json: rating 1 is of an image that",
        ),
        ([changed("noname.json", lambda s: s.update(reader=" "))], "noname.json: has no reader"),
        ([], "no files"),
    ]
    for files, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            score_ratings(files, key)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"--key .*good.json: is not a key.json"):
        score_ratings([good], good)
    whole = json.loads(key.read_text())
    for part in ("images", "sources", "study"):
        (tmp_path / "cut.json").write_text(json.dumps({name: value for name, value in whole.items() if name != part}))
        with pytest.raises(InputError, match=r"--key .*cut.json: is damaged"):
            score_ratings([good], tmp_path / "cut.json")


def test_commands(tmp_path: Path) -> None:
    real, fake = folder(tmp_path / "hospital", 3, (32, 32), 0), folder(tmp_path / "fake", 3, (32, 32), 1)
    run = CliRunner().invoke
    arguments = ["--real", str(real), "--synthetic", str(fake), "--out", str(tmp_path / "o"), "--count", "3", "--json"]
    made = run(app, ["rate", "export", *arguments])
    assert made.exit_code == 0, made.stderr
    study = json.loads(made.stdout)
    assert study["images"] == 6
    file = sheet_of(study, tmp_path / "a.json", "A", lambda i: (4, i["source"].replace("fake", "synthetic")))
    scored = run(app, ["rate", "score", str(file), "--key", study["key"], "--json"])
    assert json.loads(scored.stdout)["answers"]["accuracy"]["value"] == 1
    assert "MOS 4.00" in run(app, ["rate", "score", str(file), "--key", study["key"]]).stdout
    refused = run(app, ["rate", "score", str(file), str(file), "--key", study["key"]])
    assert refused.exit_code == 2
    assert run(app, ["rate", "export", *arguments]).exit_code == 2


# ---------------------------------------------------------------------------------------------------------- statistics


def test_alpha_of_the_published_example() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section E: four observers, twelve units, missing
    values; nominal 0.743, ordinal 0.815."""
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
            [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
        ]
    )
    assert krippendorff_alpha(ratings, ordinal=False) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(ratings) == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_two_readers_by_its_definition() -> None:
    """Two readers, all given: 1 - observed over expected disagreement, with the distance counted rating by rating."""
    random = np.random.default_rng(0)
    ratings = random.integers(1, 6, (2, 30)).astype(float)
    ratings[1, :15] = ratings[0, :15]
    pool = ratings.ravel()

    def distance(a: float, b: float) -> float:
        low, high = min(a, b), max(a, b)
        return float((((pool >= low) & (pool <= high)).sum() - ((pool == low).sum() + (pool == high).sum()) / 2) ** 2)

    observed = np.mean([distance(a, b) for a, b in ratings.T])
    pairs = [distance(pool[i], pool[j]) for i in range(60) for j in range(60) if i != j]
    assert krippendorff_alpha(ratings) == pytest.approx(1 - observed / np.mean(pairs))
    interval = alpha_interval(ratings)
    assert interval["low"] is not None
    assert interval["high"] is not None
    assert interval["low"] < krippendorff_alpha(ratings) < interval["high"]  # type: ignore[operator]


def test_alpha_at_its_ends() -> None:
    same = np.array([[1, 2, 3, 4, 5, 3]] * 3, float)
    assert krippendorff_alpha(same) == pytest.approx(1)
    assert krippendorff_alpha(np.array([[1, 5] * 20, [5, 1] * 20], float)) < 0  # type: ignore[operator]
    random = np.random.default_rng(1).integers(1, 6, (3, 3000)).astype(float)
    assert krippendorff_alpha(random) == pytest.approx(0, abs=0.03)
    constant = np.full((2, 5), 3.0)
    assert krippendorff_alpha(constant) is None
    assert alpha_interval(constant) == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_published_examples(hits: int, total: int, low: float, high: float) -> None:
    """Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 1998, table I, method
    3."""
    interval = wilson(hits, total)
    assert interval["low"] == pytest.approx(low, abs=5e-5)
    assert interval["high"] == pytest.approx(high, abs=5e-5)
    assert interval["value"] == hits / total


def test_bootstrap_counts_readers_and_images() -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(1, 50))
    alone = percentiles(crossed_means(images))
    assert alone["high"] - alone["low"] == pytest.approx(2 * 1.96 * images.std() / 50**0.5, rel=0.1)
    # Readers who differ in severity only: images add nothing, and two of three draws of two readers are not balanced.
    severity = np.array([[-1.0], [1.0]]) * np.ones((2, 50))
    assert set(np.round(crossed_means(severity), 9)) == {-1.0, 0.0, 1.0}
    assert not np.array_equal(crossed_means(images, 1), crossed_means(images, 2))
    first, second = crossed_means(severity, 1, 5), crossed_means(severity, 2, 5)
    assert np.array_equal(first, second)  # other images, the same readers
