"""The page itself, in Chromium: draw, keep, save, load again; filter; upload; rate; and what must not be possible."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_diffusion.claim import mark
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.writer import made_here
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.files import read_json, read_jsonl
from siamese_diffusion.report import write_report
from siamese_diffusion.webapp import serving
from siamese_diffusion.webapp.phantom import phantom_network, phantom_run
from siamese_diffusion.webapp.workspace import Workspace

pytest.importorskip("gradio", reason="the extra app is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser

PATIENCE = 120_000
"""Milliseconds that a step may take on a crowded machine."""
LARGEST = 200_000

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> dict[str, Path]:
    """A finished run, synthetic pairs, and what `evaluate` found of them."""
    root = tmp_path_factory.mktemp("app")
    run = phantom_run(root / "run")
    mark(run, "train")
    (run / "log.jsonl").write_text("".join(f'{{"step": {i}, "total": {1 / i}}}\n' for i in range(20, 240, 20)))
    (run / "summary.json").write_text("{}")
    write_report(run / "report.html", "Training by siamese", "A page.", [])
    made, scores = root / "made", root / "scores"
    for kind in ("images", "masks"):
        (made / kind).mkdir(parents=True)
    rows, dice = [], []
    for number, pair in enumerate(DataFolder(pairs).pairs()):
        files = {"image": f"images/p{number}.png", "mask": f"masks/p{number}.png"}
        image, mask = pair.read()
        Image.fromarray(image).save(made / files["image"])
        Image.fromarray(mask.astype(np.uint8) * 255).save(made / files["mask"])
        rows.append({**files, "synthetic": True})
        dice.append(0.1 + 0.1 * number)
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores.mkdir()
    (scores / "fit.csv").write_text(
        "name,dice,boundary\n" + "".join(f"p{i},{value:.2f},0.05\n" for i, value in enumerate(dice))
    )
    (scores / "novelty.csv").write_text(
        "name,real,distance,flip,flagged\n" + "".join(f"p{i},phantom-0000{i},1.5,none,0\n" for i in range(len(dice)))
    )
    metrics = {
        "fit": {
            "dice": {"mean": 0.5, "low": 0.4, "high": 0.6},
            "shuffled": {"mean": 0.1, "low": 0.05, "high": 0.2},
        },
        "novelty": {"flagged": []},
        "protocol": {"synthetic": str(made), "real": str(pairs)},
    }
    (scores / "metrics.json").write_text(json.dumps(metrics))
    return {"run": run, "made": made, "scores": scores, "out": root / "out"}


@pytest.fixture(scope="module")
def address(folders: dict[str, Path], pairs: Path) -> Iterator[str]:
    workspace = Workspace(
        folders["out"], folders["run"], pairs, [folders["made"]], phantom_network(), folders["scores"]
    )
    before, serving.LARGEST = serving.LARGEST, LARGEST
    try:
        with serving.served(workspace, "cpu") as address:
            yield address
    finally:
        serving.LARGEST = before


@pytest.fixture(scope="module")
def started(chromium: str) -> Iterator[Any]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(started: Any, address: str) -> Iterator[Open]:
    """Open the page in a browser tab of its own; nothing may be asked of another host, and no script may fail."""
    contexts, foreign = [], []

    def seen(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:", "about:")):
            foreign.append(request.url)

    def open_one(tab: str = "Draw") -> Any:
        context = started.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", seen)
        page.on("pageerror", lambda error: foreign.append(str(error)))
        page.goto(address)
        page.locator("#starts img").first.wait_for()
        page.get_by_role("tab", name=tab).click()
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert foreign == []


def paint(page: Any, left: float, right: float) -> None:
    """An ellipse from one side to the other, in shares of the board."""
    page.locator("#board [data-tool=ellipse]").click()
    box = page.locator("#board canvas.over").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + left * side, y + 0.3 * side)
    page.mouse.down()
    page.mouse.move(x + right * side, y + 0.7 * side, steps=4)
    page.mouse.up()


def draw(page: Any, count: int) -> None:
    page.get_by_label("number input for Images").fill(str(count))
    page.get_by_label("number input for Images").press("Tab")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(f"#cards .card:nth-child({count}) img").wait_for()
    ready(page)


def ready(page: Any) -> None:
    page.get_by_role("button", name="Draw", exact=True).and_(page.locator(":enabled")).wait_for()


def captions(page: Any) -> list[str]:
    return [str(text).strip() for text in page.locator("#cards .caption").all_inner_texts() if text.strip()]


def failure(page: Any) -> str:
    """The line that the page shows; it is closed then."""
    toast = page.locator(".toast-body.error").first
    toast.wait_for()
    text = str(toast.inner_text())
    page.locator(".toast-close").first.click()
    return text


def test_draw_keep_save_and_load_again(open_page: Open, folders: dict[str, Path]) -> None:
    page = open_page()
    page.get_by_role("button", name="Draw", exact=True).click()
    assert "paint a mask first" in failure(page)
    paint(page, 0.3, 0.7)
    expected = f"{100 * np.pi * 0.2 * 0.2:.1f} % of the image"
    assert page.locator("#board .share").inner_text() == expected
    draw(page, 2)
    assert [text.partition("\n")[0] for text in captions(page)] == ["seed 0", "seed 1"]
    assert all("Dice" in text for text in captions(page))
    page.locator("#keep-1 input").check()
    page.locator("#kept-images img").first.wait_for()

    page.reload()  # nothing is lost
    page.locator("#kept-images img").first.wait_for()
    assert [text.partition("\n")[0] for text in captions(page)] == ["seed 0", "seed 1"]
    assert page.locator("#board .share").inner_text() == expected
    assert page.locator("#keep-1 input").is_checked()
    assert not page.locator("#keep-0 input").is_checked()
    assert page.get_by_label("First seed").input_value() == "2"

    page.locator("#saved-name").get_by_role("textbox").fill("../../escaped")
    page.get_by_role("button", name="Save kept pairs").click()
    assert "give a plain name" in failure(page)
    page.locator("#saved-name").get_by_role("textbox").fill("by hand")
    page.get_by_role("button", name="Save kept pairs").click()
    page.locator("#saved code").wait_for()
    saved = folders["out"] / "pairs/by hand"
    assert page.locator("#saved code").inner_text() == str(saved.resolve())
    (row,) = read_jsonl(saved / "pairs.jsonl")
    assert made_here(row)
    assert (row["seed"], row["mask_transform"], row["sampler"]["steps"]) == (1, {"recipe": "none"}, 12)
    mask = DataFolder(saved).pairs()[0].read()[1]
    assert abs(mask.mean() - np.pi * 0.2 * 0.2) < 0.02
    assert not list(folders["out"].parent.rglob("*escaped*"))


def test_what_is_painted_is_moved_scaled_and_undone(open_page: Open) -> None:
    page = open_page()
    page.locator("#starts button").first.click()
    page.wait_for_function("document.querySelector('#board .share').innerText.includes('%')")
    start = page.locator("#board .share").inner_text()
    page.locator("#board [data-do=clear]").click()
    assert page.locator("#board .share").inner_text() == "nothing painted"
    page.locator("#board [data-do=undo]").click()
    assert page.locator("#board .share").inner_text() == start
    page.locator("#board [data-do=clear]").click()
    paint(page, 0.4, 0.6)
    share = float(page.locator("#board .share").inner_text().split()[0])
    page.locator("#board [data-tool=move]").click()
    box = page.locator("#board canvas.over").bounding_box()
    side = box["width"]
    page.mouse.move(box["x"] + 0.5 * side, box["y"] + 0.5 * side)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * side, box["y"] + 0.5 * side, steps=4)  # half of it beyond the edge
    page.mouse.up()
    assert float(page.locator("#board .share").inner_text().split()[0]) == pytest.approx(share, abs=0.2)
    page.locator("#board .board").press("-")
    assert float(page.locator("#board .share").inner_text().split()[0]) == pytest.approx(share / 1.06**2, abs=0.3)


def test_two_browser_tabs_do_not_disturb_each_other(open_page: Open) -> None:
    one, other = open_page(), open_page()
    paint(one, 0.3, 0.7)
    paint(other, 0.1, 0.5)
    one.get_by_label("First seed").fill("40")
    other.get_by_label("First seed").fill("50")
    one.get_by_label("First seed").press("Tab")
    other.get_by_label("First seed").press("Tab")
    one.get_by_role("button", name="Draw", exact=True).click()
    other.get_by_role("button", name="Draw", exact=True).click()  # waits in line for the first
    for page, first in ((one, 40), (other, 50)):
        page.locator("#cards .card:nth-child(4) img").wait_for()
        ready(page)
        assert [text.partition("\n")[0] for text in captions(page)] == [f"seed {first + i}" for i in range(4)]
    one.locator("#keep-0 input").check()
    one.locator("#kept-images img").first.wait_for()
    other.reload()
    other.locator("#cards .card:nth-child(4) img").wait_for()
    assert captions(other)[0].startswith("seed 50")
    assert not other.locator("#keep-0 input").is_checked()


def test_pairs_are_filtered_dropped_and_written_as_filter_does(
    open_page: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    page = open_page("Pairs")
    told = page.locator("#pairs-told")
    page.get_by_text("Pairs 1 to 8 of 8").wait_for()
    page.get_by_label("number input for Mask fit (Dice) at least").fill("0.45")
    page.get_by_label("number input for Mask fit (Dice) at least").press("Tab")
    page.locator("#pairs-gallery button").first.click()  # a pair is shown large, beside the nearest real image
    page.get_by_label("drops it, or takes it back").check()
    page.get_by_text("Pairs 1 to 4 of 4 (8 in the folder)").wait_for()
    page.locator("#pairs-gallery button").nth(1).click()
    page.get_by_text("1 dropped by hand, so 3 would be written").wait_for()
    assert "Pairs 1 to 4" in told.inner_text()
    page.locator("#subset-name").get_by_role("textbox").fill("subset")
    page.get_by_role("button", name="Write the subset").click()
    page.locator("#written code").wait_for()
    filter_(folders["scores"], tmp_path / "same", min_dice=0.45, drop=["p5"])
    written = folders["out"] / "pairs/subset"
    assert (written / "pairs.jsonl").read_bytes() == (tmp_path / "same/pairs.jsonl").read_bytes()
    assert {pair.name for pair in DataFolder(written).pairs()} == {"p4", "p6", "p7"}


def test_uploads_that_are_no_images_or_too_large_are_told_and_not_kept(
    open_page: Open, folders: dict[str, Path], tmp_path: Path, address: str
) -> None:
    page = open_page("Segment")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    Image.fromarray(random.integers(0, 255, (300, 400, 3), np.uint8)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > LARGEST
    upload = page.locator("#uploads input[type=file]")
    upload.set_input_files(tmp_path / "large.png")
    assert "size" in failure(page).lower()
    page = open_page("Segment")
    upload = page.locator("#uploads input[type=file]")
    upload.set_input_files([tmp_path / "good.png", tmp_path / "torn.png"])
    page.locator("#uploads").get_by_text("torn", exact=False).first.wait_for()
    page.get_by_role("button", name="Segment", exact=True).click()
    page.locator("#views img").nth(3).wait_for()
    assert page.locator("#refused").inner_text().startswith("torn.png: the image is damaged")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all as a zip").click()
    assert Path(download.value.path()).stat().st_size > 0
    cache = Path(os.environ["GRADIO_TEMP_DIR"])
    kept = [path for path in cache.rglob("*.png") if path.read_bytes() == (tmp_path / "good.png").read_bytes()]
    assert kept == []
    assert not list(folders["out"].rglob("good*"))


def test_paths_from_a_browser_lead_nowhere(open_page: Open, address: str, folders: dict[str, Path]) -> None:
    page = open_page()
    secret = folders["out"] / "inputs.json"
    for path in ("/etc/passwd", str(secret), f"{folders['out']}/../out/inputs.json", str(Path(__file__).resolve())):
        for route in ("file=", "file/"):
            assert page.request.get(f"{address}/gradio_api/{route}{path}").status in (403, 404)
    config = page.request.get(f"{address}/config").json()
    uploads = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "uploads")
    call = next(each for each in config["dependencies"] if uploads in each["inputs"])
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    asked = {"data": ["0123456789ab", [file], False, 0.5], "fn_index": call["id"], "session_hash": "escape"}
    assert page.request.post(f"{address}/gradio_api/queue/join", data=asked).ok
    answer = page.request.get(f"{address}/gradio_api/queue/data?session_hash=escape").text()
    assert '"success":false' in answer.replace(" ", "")
    assert secret.exists()
    headers = page.request.get(address).headers
    assert "default-src 'self'" in headers["content-security-policy"]


def test_a_reader_goes_on_where_they_stopped(open_page: Open, folders: dict[str, Path]) -> None:
    page = open_page("Rate")
    page.get_by_text("For the researcher").click()
    page.get_by_label("number input for Images of each folder").fill("3")
    page.get_by_label("number input for Images of each folder").press("Tab")
    page.get_by_role("button", name="Make the study").click()
    page.get_by_text("Made: 2 times 3 images").wait_for()
    page.get_by_label("Your name or initials").fill("Dr B")
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("Image 1 of 6, 0 rated").wait_for()
    page.get_by_role("button", name="Next").click()
    assert "please judge both" in failure(page)
    page.get_by_label("4 Good").check()
    page.get_by_label("Synthetic", exact=True).check()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("Image 2 of 6, 1 rated").wait_for()
    page.reload()
    page.get_by_role("tab", name="Rate").click()
    page.get_by_text("Image 2 of 6, 1 rated").wait_for()
    (sheet,) = (folders["out"] / "reader-studies/reader-study/ratings").iterdir()
    found = read_json(sheet)
    assert (found["reader"], found["finished"], len(found["ratings"])) == ("Dr B", None, 1)
    assert (found["ratings"][0]["rating"], found["ratings"][0]["answer"]) == (4, "synthetic")


def test_data_and_runs_are_shown_with_their_reports(open_page: Open, pairs: Path) -> None:
    page = open_page("Data")
    page.get_by_role("button", name="Check", exact=True).click()
    page.frame_locator("#check-report iframe").get_by_text("8 pairs of an image and a mask").first.wait_for()
    page.get_by_role("tab", name="Runs").click()
    page.get_by_text("train, finished, step 220 of 220").first.wait_for()
    page.locator("#curves img").wait_for()
    page.frame_locator("#run-report iframe").locator("h1").wait_for()


def test_other_computers_are_asked_for_the_password(tmp_path: Path, started: Any) -> None:
    with serving.served(Workspace(tmp_path / "out"), "cpu", password="correct horse") as address:
        port = address.rpartition(":")[2]
        page = started.new_page()
        page.set_default_timeout(PATIENCE)
        local = f"http://127.0.0.1:{port}"
        assert page.request.get(f"{local}/config").status == 401
        page.goto(local)
        page.get_by_label("username").fill("anyone")
        page.get_by_label("password").fill("wrong password")
        page.get_by_role("button", name="Login").click()
        page.get_by_text("Incorrect").first.wait_for()
        page.get_by_label("username").fill("anyone")
        page.get_by_label("password").fill("correct horse")
        page.get_by_role("button", name="Login").click()
        page.locator("#board canvas.over").wait_for()
        page.close()
