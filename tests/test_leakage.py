"""Images that are in two places: as the same file, as a copy, as a neighbouring frame, as a patient's other image."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.data import leakage
from siamese_diffusion.data.check import check
from siamese_diffusion.data.decoding import PLAIN, Decoding
from siamese_diffusion.data.fingerprint import COPY, NEAR, Fingerprint, Match, fingerprint, matches, of_file
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.leakage import series_of, warn_of_copies
from siamese_diffusion.data.splits import require_disjoint
from siamese_diffusion.errors import InputError


def scene(seed: int, size: tuple[int, int] = (96, 120)) -> Image.Image:
    """Smooth colours with some texture, as no other seed has them; `size` is (H, W)."""
    random = np.random.default_rng(seed)
    low = Image.fromarray(random.integers(30, 220, (12, 12, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    noise = random.normal(0, 5, (*size, 1))
    return Image.fromarray((np.asarray(low) + noise).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int = 50) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    return Image.open(io.BytesIO(content.getvalue())).convert("RGB")


def brighter(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture) * 0.9 + 12).astype(np.uint8))


def frame(picture: Image.Image, seed: int, amount: float = 0.3) -> Image.Image:
    """The next frame of a video: a little of another scene in it."""
    return Image.blend(picture, scene(seed, picture.size[::-1]), amount)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "another format": jpeg,
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "squared": lambda picture: picture.resize((64, 64)),
    "brighter": brighter,
    "grey": lambda picture: picture.convert("L"),
    **{way.name: lambda picture, way=way: jpeg(picture.transpose(way)) for way in Image.Transpose},  # type: ignore[misc]
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_found(way: str) -> None:
    originals = [scene(seed) for seed in range(20)]
    prints = [fingerprint(picture) for picture in originals]
    found = matches([*prints, fingerprint(COPIES[way](originals[7]))], [*[0] * 20, 1])
    assert [(match.first, match.second, match.is_copy) for match in found] == [(7, 20, True)]


def test_other_scenes_are_none() -> None:
    prints = [fingerprint(scene(seed)) for seed in range(60)]
    assert matches(prints, [None] * 60) == []
    assert len(matches(prints, [None] * 60, most=255)) >= 30


def test_images_of_a_kind_are_not_compared_and_each_two_are_told_once() -> None:
    prints = [fingerprint(scene(seed)) for seed in (1, 1, 2, 1)]
    assert matches(prints, ["a", "a", "b", "a"]) == []
    assert matches(prints, ["a", "a", "b", "c"]) == [Match(0, 3, 0.0), Match(1, 3, 0.0)]
    assert matches([], []) == []


def test_many_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = [fingerprint(scene(seed % 25)) for seed in range(50)]
    expected = [(i, i + 25) for i in range(25)]
    for block in (7, 50, 1000):
        monkeypatch.setattr("siamese_diffusion.data.fingerprint.BLOCK", block)
        assert [match[:2] for match in matches(prints, [None] * 50)] == expected


def test_a_plain_image_has_no_fingerprint() -> None:
    flat = np.full((40, 40, 3), 90, np.uint8)
    half = flat.copy()
    half[:20] = 200
    assert fingerprint(Image.fromarray(flat)) is None
    assert fingerprint(Image.fromarray(half)) is None
    assert fingerprint(scene(1).convert("P")) is not None


def test_files_are_read_at_a_fraction_of_their_size_and_alike(tmp_path: Path) -> None:
    picture = scene(3, (900, 1200))
    picture.save(tmp_path / "a.jpg", quality=85)
    picture.save(tmp_path / "a.png")
    deep = np.asarray(picture.convert("L"), np.uint16) * 16
    Image.fromarray(deep).save(tmp_path / "deep.png")
    prints = [of_file(tmp_path / name, PLAIN) for name in ("a.jpg", "a.png", "deep.png")]
    assert all(match.is_copy for match in matches([fingerprint(picture), *prints], [0, 1, 1, 1]))
    assert len(matches([fingerprint(picture), *prints], [0, 1, 1, 1])) == 3


def disc(seed: int, size: tuple[int, int] = (96, 120)) -> NDArray[np.uint8]:
    y, x = np.mgrid[: size[0], : size[1]]
    inside = (y - 40 - seed % 9) ** 2 + (x - 60 + seed % 7) ** 2 < (15 + seed % 5) ** 2
    return np.asarray(inside.astype(np.uint8) * 255)


def write(folder: Path, name: str, picture: Image.Image, ending: str = "png") -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"images/{name}.{ending}")
    Image.fromarray(disc(crc32(name.encode()), picture.size[::-1])).save(folder / f"masks/{name}.png")


def kinds(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in check(folder).problems:
        names = "-".join(Path(file).stem for file in (problem.file, problem.other) if file)
        found.setdefault(problem.kind, []).append(names)
    return found


def divided(folder: Path, **lists: list[str]) -> Path:
    (folder / "splits.json").write_text(json.dumps(lists))
    return folder


def test_check_names_copies_and_near_images_in_other_splits(tmp_path: Path) -> None:
    for i in range(8):
        write(tmp_path, f"n{i}x", scene(i))
    write(tmp_path, "mirrored", jpeg(scene(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    write(tmp_path, "next", frame(scene(1), 99))
    write(tmp_path, "beside", frame(scene(0), 98))
    names = [f"n{i}x" for i in range(8)]
    divided(tmp_path, train=[*names[:6], "beside"], val=names[6:], test=["mirrored", "next"])
    found = kinds(tmp_path)
    assert found == {"copy in another split": ["mirrored-n2x"], "near in another split": ["n1x-next"]}
    distances = [match.distance for match in matches([fingerprint(scene(1)), fingerprint(frame(scene(1), 99))], [0, 1])]
    assert COPY < distances[0] <= NEAR
    assert check(tmp_path).usable


def test_the_same_file_in_a_test_split_is_an_error(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path, f"n{i}x", scene(i))
    write(tmp_path, "again", scene(1))
    write(tmp_path, "twin", scene(0))
    divided(tmp_path, train=["n0x", "n1x", "n2x", "twin"], val=["n3x"], test=["n4x", "again"])
    report = check(tmp_path)
    assert [(problem.kind, problem.fatal) for problem in report.problems] == [
        ("same image", False),
        ("same image", False),
        ("split", True),
    ]
    assert "they are in test and train; leave one of them out" in report.problems[0].detail
    assert "again.png is in test set test and the same file as" in report.problems[2].file + report.problems[2].detail
    assert not report.usable
    divided(tmp_path, train=["n0x", "n1x", "n2x", "n3x"], val=["again"], test=["n4x"])
    assert check(tmp_path).usable


def test_groups_that_straddle_splits(tmp_path: Path) -> None:
    rows = []
    for i in range(6):
        write(tmp_path, f"n{i}x", scene(i))
        rows.append({"image": f"images/n{i}x.png", "mask": f"masks/n{i}x.png", "group": f"p{i // 2}"})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    divided(tmp_path, train=["n0x", "n1x", "n2x"], val=["n4x", "n5x"], test=["n3x"])
    report = check(tmp_path)
    assert report.groups == 3
    assert [(problem.kind, problem.detail) for problem in report.problems] == [
        ("group across splits", "is of group p1, which has 1 in train, 1 in test")
    ]


def test_frames_of_a_video_that_straddle_splits(tmp_path: Path) -> None:
    names = [f"video{v:02d}_{i:04d}" for v in (1, 2) for i in range(4)]
    for i, name in enumerate(names):
        write(tmp_path, name, scene(i))
    divided(tmp_path, train=names[:3] + names[4:6], test=[names[3], *names[6:]])
    report = check(tmp_path)
    assert [problem.kind for problem in report.problems] == ["series across splits"] * 2
    assert "is of series video01, which has 3 in train, 1 in test; is that a video or a patient?" in (
        report.problems[0].detail
    )
    divided(tmp_path, train=names[:4], test=names[4:])
    assert check(tmp_path).problems == []


def test_near_images_without_splits_are_told_in_a_line(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path, f"n{i}x", scene(i))
    for i in range(3):
        write(tmp_path, f"f{i}x", frame(scene(0), 90 + i))
    (problem,) = check(tmp_path).problems
    assert problem.kind == "near images"
    assert "4 of 9 images look like another. Frames of one video? Say so by `group`" in problem.detail
    (tmp_path / "pairs.csv").write_text(
        "image,mask,group\n"
        + "".join(f"images/{n}.png,masks/{n}.png,v\n" for n in ("n0x", "f0x", "f1x", "f2x"))
        + "".join(f"images/n{i}x.png,masks/n{i}x.png,o{i}\n" for i in range(1, 6))
    )
    assert check(tmp_path).problems == []


@pytest.mark.parametrize(
    ("names", "series"),
    [
        ([f"video{v}_frame{i}" for v in (1, 2) for i in range(3)], {"video1", "video2"}),
        ([f"TCGA_{p}_1996_{i}" for p in (4941, 4942) for i in range(3)], {"TCGA_4941_1996", "TCGA_4942_1996"}),
        ([f"p{p:02d}-{i}" for p in (1, 2) for i in range(3)], {"p01", "p02"}),
        ([f"ISIC_{i:07d}" for i in range(9)], set()),
        ([f"benign ({i})" for i in range(9)], set()),
        ([f"a{i}_1" for i in range(9)], set()),
        ([f"video1_{i}" for i in range(9)], set()),
        ([str(i) for i in range(9)], set()),
    ],
)  # fmt: skip
def test_names_that_say_a_series(names: list[str], series: set[str]) -> None:
    assert set(series_of(names).values()) == series


def test_the_same_content_is_no_test_image_by_any_name(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "train", f"n{i}x", scene(i))
        write(tmp_path / "test", f"t{i}", scene(10 + i))
    train = DataFolder(tmp_path / "train").pairs()
    require_disjoint(train, {"test": DataFolder(tmp_path / "test").pairs()})
    (tmp_path / "test/images/t2.png").write_bytes((tmp_path / "train/images/n1x.png").read_bytes())
    with pytest.raises(InputError, match=r"t2\.png is in test set test and the same file as .*n1x\.png"):
        require_disjoint(train, {"test": DataFolder(tmp_path / "test").pairs()})


def test_near_copies_are_told_in_a_line_a_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        write(tmp_path / "train", f"n{i}x", scene(i))
        write(tmp_path / "test", f"t{i}", scene(10 + i))
    write(tmp_path / "made", "s0", jpeg(scene(13)), "jpg")
    write(tmp_path / "made", "s1", scene(50))
    train, made, test = (DataFolder(tmp_path / name).pairs() for name in ("train", "made", "test"))
    warn_of_copies(train, [], {"test": test})
    assert "warning" not in capsys.readouterr().err
    for i, near in enumerate((jpeg(scene(0)), frame(scene(1), 99))):
        write(tmp_path / "test", f"t{i}", near)
    test = DataFolder(tmp_path / "test").pairs()
    reads = []

    def noted(path: Path, decoding: Decoding) -> Fingerprint | None:
        reads.append(path)
        return of_file(path, decoding)

    monkeypatch.setattr(leakage, "of_file", noted)
    warn_of_copies(train, made, {"test": test, "none": []})
    said = capsys.readouterr().err
    assert (
        "test set test: 2 of 6 images look like a training image, 1 of them as copies do (t0 like n0x, t1 like n1x)"
        in said
    )
    assert "test set test: 1 of 6 images look like a synthetic image, 1 of them as copies do (t3 like s0)" in said
    assert said.count("warning") == 2
    assert sorted(path.stem for path in reads) == ["s0", "s1", "t0", "t1"]  # the others are known by now
