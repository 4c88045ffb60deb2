"""What is read is a value or one line: text, JSON, tables, YAML, images, archives."""

import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import FiniteFloat
from typing_extensions import TypedDict

from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.config import Config, load_config
from siamese_diffusion.data.check import check
from siamese_diffusion.data.fetch import transfer
from siamese_diffusion.data.fetch.unpack import Limits, unpack
from siamese_diffusion.data.images import read_image
from siamese_diffusion.data.opening import FORMATS, MAX_PIXELS, SUFFIXES, image_size
from siamese_diffusion.data.tars import index
from siamese_diffusion.errors import InputError, WithheldError
from siamese_diffusion.evaluation.scores import read_fits
from siamese_diffusion.files import read_csv, read_json, read_jsonl, read_text
from siamese_diffusion.plain_yaml import parse_yaml


class Kind(TypedDict):
    share: FiniteFloat
    names: list[str]


LAUGHS = ", ".join(f"&{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 80 + b"]" * 80, "nested too deeply"),
        (b"9" * 5000, "the number 9+.* is too large"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b"caf\xe9", "not UTF-8 text"),
        ("{}".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_json_that_is_none_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_is_read_with_a_byte_order_mark_and_with_whole_surrogate_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}')
    assert read_json(path) == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "x.json: "),
        ({"share": 0.5}, "names: "),
        ({"share": "0.5", "names": []}, "share: "),
        ({"share": True, "names": []}, "share: "),
        ({"share": 1e999, "names": []}, "share: "),
        ({"share": 1, "names": ["a", 2]}, "names.1: "),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path: Path, value: Any, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=words):
        read_json(path, Kind)
    path.write_text(json.dumps({"share": 1, "names": ["a"], "more": None}))
    assert read_json(path, Kind) == {"share": 1, "names": ["a"], "more": None}


def test_files_that_are_not_there_and_files_that_are_withheld_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, words in (
        (tmp_path / "x", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "a\0b", "no such file"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            read_text(path)
        assert not isinstance(caught.value, WithheldError)

    def fail(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(WithheldError, match=r"cannot be read .Input/output error"):
        read_text(tmp_path / "x")


@pytest.mark.parametrize(
    ("last", "kept"),
    [('{"a": 2', 1), ('{"a": "x', 1), ('{"a": {"b": 1}', 1), ('{"a": 2}', 2), ('{"a": 2,}', None), ("{'a': 2}", None)],
)
def test_only_a_line_that_a_killed_writer_left_is_dropped(tmp_path: Path, last: str, kept: int | None) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' + last)
    if kept is not None:
        assert len(read_jsonl(path)) == kept
        return
    with pytest.raises(InputError, match="line 2 is not valid JSON"):
        read_jsonl(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'a'"),
        ("a,a,b\n", "no column 'a', or has it twice"),
        ("a,b\n1\n", "line 2 has 1 fields, its header 2"),
        ("a,b\n1,2,3\n", "line 2 has 3 fields"),
        (f"a,b\n{'x' * 200_000},1\n", "line 2 is not CSV"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_csv(tmp_path / "x.csv", ("a", "b"))


@pytest.mark.parametrize("figure", ["nan", "1.5", "x", "-1", "inf"])
def test_fits_are_shares(tmp_path: Path, figure: str) -> None:
    (tmp_path / "fit.csv").write_text(f"name,dice,iou,boundary\na,{figure},0.5,0.5\n")
    with pytest.raises(InputError, match="no share from 0 to 1"):
        read_fits(tmp_path / "fit.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[&a [x, x], {LAUGHS}]", "with its anchors written out"),
        ("&a [*a]", "an anchor holds itself"),
        ("[" * 70_000, "nested too deeply"),
        ("- " * 400 + "x", "nested too deeply"),
        ("{a: 1, a: 2}", "the key 'a' is there twice"),
        ("{1: x}", "'1' is a key, and keys are text"),
        ("{on: x}", "'on' is a key"),
        ("? [1]\n: x", "a list or mapping is a key"),
        ("!!timestamp x", "not valid YAML"),
        ("2001-99-99", "not valid YAML"),
        ("!!int abc", "not valid YAML"),
        ("9" * 5000, "not valid YAML"),
        ("0x" + "f" * 100, "a number that large"),
        ("!!set {a}", "the tag !!set is not used"),
        ("!!python/name:os.system", "the tag !!python/name:os.system is not used"),
        ("x" * 300_000, "more than settings do"),
    ],
)
def test_yaml_that_is_not_plain_is_refused_at_once(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_yaml(text, "here")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_anchors_and_merge_keys_are_read() -> None:
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: *x\ne: {<<: *x, c: 3}\n", "here") == {
        "a": {"b": 1, "c": 2},
        "d": {"b": 1, "c": 2},
        "e": {"b": 1, "c": 3},
    }


def test_a_setting_that_is_shown_in_an_error_is_cut(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"train: {{steps: {list(range(4000))}}}")
    with pytest.raises(InputError, match=r"train\.steps = ") as caught:
        load_config(tmp_path / "x.yaml")
    assert len(str(caught.value)) < 300
    assert len(str(InputError("x" * 10_000))) < 2000


def picture(size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_format_is_read_whatever_the_file_is_called(tmp_path: Path, suffix: str) -> None:
    kind = {".jfif": "JPEG", ".jp2": "JPEG2000"}.get(suffix) or Image.registered_extensions()[suffix]
    assert kind in FORMATS
    picture().save(tmp_path / f"x{suffix}", kind)
    assert read_image(tmp_path / f"x{suffix}").shape == (6, 8, 3)
    (tmp_path / "y.png").write_bytes((tmp_path / f"x{suffix}").read_bytes())
    assert read_image(tmp_path / "y.png").shape == (6, 8, 3)


def test_no_other_format_is_opened(tmp_path: Path) -> None:
    """Pillow reads these, some by programs that it starts."""
    for kind in ("PPM", "TGA", "PCX", "ICO", "SGI", "EPS", "IM", "MSP"):
        image = picture((16, 16)).convert("1") if kind == "MSP" else picture((16, 16))
        image.save(tmp_path / "x.png", kind)
        with pytest.raises(InputError, match=r"x\.png: not an image that can be read .JPEG, PNG"):
            read_image(tmp_path / "x.png")


def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*arguments: object) -> None:
        raise AssertionError("decoded")

    side = int(MAX_PIXELS**0.5)
    for name, width, height in (("a", side + 1, side), ("b", 16_000, 12_000)):
        Image.new("1", (width, height)).save(tmp_path / f"{name}.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    for name in "ab":
        with pytest.raises(
            InputError, match=rf"{name}\.png: .*more.* than data.max_pixels = {MAX_PIXELS}.*raise that setting"
        ):
            read_image(tmp_path / f"{name}.png")
    assert image_size(tmp_path / "b.png", 16_000 * 12_000) == (16_000, 12_000)


def test_the_limit_is_the_setting_s_default() -> None:
    assert Config().data.max_pixels == MAX_PIXELS


def test_the_limit_reaches_check(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        picture().save(tmp_path / kind / "a.png")
    settings = load_config(None, ["data.max_pixels=40"]).data
    found = [problem.detail for problem in check(tmp_path, settings).problems if problem.kind == "unreadable"]
    assert len(found) == 2
    assert all("data.max_pixels = 40" in detail for detail in found)


def test_a_name_that_is_not_utf_8_is_refused_in_words_that_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.png"
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(InputError, match="its name is not UTF-8; rename it") as caught:
        read_image(path)
    str(caught.value).encode()


def tar(path: Path, change: Any) -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.image.png")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    content = bytearray(path.read_bytes())
    change(content)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    return path


def test_a_tar_whose_member_has_a_negative_size_does_not_go_in_a_circle(tmp_path: Path) -> None:
    def negative(content: bytearray) -> None:
        content[124:136] = b"\xff" * 11 + b"\x00"

    with pytest.raises(InputError, match="negative size"):
        index(tar(tmp_path / "x.tar", negative))


def test_a_tar_with_two_members_of_a_name_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a.json"))
    with pytest.raises(InputError, match=r"has two members a\.json"):
        index(tmp_path / "x.tar")


def test_what_lzma_says_of_an_archive_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", b"x" * 500)
    content = bytearray(path.read_bytes())
    at = content.index(b"a.txt") + len("a.txt") + 9
    content[at : at + 12] = b"\xff" * 12
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive, pytest.raises((lzma.LZMAError, EOFError, zipfile.BadZipFile)):
        archive.read("a.txt")
    with pytest.raises(InputError, match=r"x\.zip: the archive is damaged"):
        unpack(path, tmp_path / "out", Limits(1 << 20))


def test_a_disk_that_is_full_is_not_the_archive_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"x")
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "xb":
            raise OSError(28, "No space left on device")
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(path, tmp_path / "out", Limits(1 << 20))


def test_what_a_user_keeps_beside_the_checkpoints_is_none(tmp_path: Path) -> None:
    for name in ("step-000002", "step-000012", "step-000012-mine", "step-best", "step-1000000"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints/step-1000000"


@pytest.mark.parametrize("text", ["²", "-1", "1.5", "9" * 30, "", None, " 5"])
def test_a_server_s_number_that_is_none_is_not_believed(text: str | None) -> None:
    assert transfer._whole_number(text) is None
    assert transfer._whole_number("50") == 50


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"address": 1, "version": null, "size": 5}', '{"address": "a", "size": 5}']
)
def test_a_note_of_a_download_that_is_damaged_vouches_for_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "note.json").write_text(content)
    assert transfer.read_note(tmp_path / "note.json") is None
    (tmp_path / "note.json").write_text('{"address": "a", "version": null, "size": 5}')
    assert transfer.read_note(tmp_path / "note.json") is not None
