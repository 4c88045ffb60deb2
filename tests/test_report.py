import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_diffusion.pictures import outline
from siamese_diffusion.report import Figure, Section, Table, labelled_rows, loss_curves, write_report


def test_page_is_whole_and_escaped(tmp_path: Path) -> None:
    picture = labelled_rows(
        {"mask": [np.zeros((8, 8, 3), np.uint8)] * 3, "image": [np.full((8, 8, 3), 9, np.uint8)] * 3}
    )
    table = Table(["name", "Dice"], [["<b>", "0.9"]], note="a note")
    sections = [Section("Heading", "1 < 2", [Figure(picture, "what it shows")], [table])]
    write_report(tmp_path / "report.html", "A title", "The lead", sections)
    page = (tmp_path / "report.html").read_text()
    for words in ("A title", "The lead", "Heading", "1 &lt; 2", "&lt;b&gt;", "0.9", "a note", "what it shows"):
        assert words in page
    assert "<b>" not in page
    inline = page.split("data:image/png;base64,")[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(inline))).size[0] > 100


@pytest.mark.parametrize("name", ["siamese, without online augmentation, 1600 steps", "W" * 60])
def test_a_long_name_is_not_cut_off(name: str) -> None:
    png = labelled_rows({"real": [np.zeros((8, 8, 3), np.uint8)] * 2, name: [np.zeros((8, 8, 3), np.uint8)] * 2})
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert pixels[:, :4].min() == 255
    assert pixels.min() == 0


def test_curves_leave_out_what_was_never_logged(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": i, "mask": 1.0 / i, "image": 0.0}) + "\n" for i in range(1, 9)))
    with_line, without = (loss_curves({"run": log}, [name]) for name in ("mask", "image"))

    def ink(png: bytes) -> int:
        return int((np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).std(-1) > 20).sum())

    assert ink(with_line) > 50  # the line is the only thing in colour
    assert ink(without) == 0


@pytest.mark.parametrize(("side", "width"), [(200, 1), (2000, 4)])
def test_an_outline_is_as_wide_as_its_picture_needs(side: int, width: int) -> None:
    mask = np.zeros((side, side), bool)
    mask[side // 4 : side // 2, : side // 2] = True  # reaches the edge of the picture, and is outlined there too
    drawn = outline(np.zeros((side, side, 3), np.uint8), mask, (0, 255, 0))
    line = drawn[side * 3 // 8, :, 1] == 255
    assert line.sum() == 2 * width
    assert line[:width].all()
    assert line[side // 2 - width : side // 2].all()
    assert not drawn[~mask].any()
