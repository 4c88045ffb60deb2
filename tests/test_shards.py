"""Pairs in WebDataset shards: written whole, resumed exactly, read without unpacking."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed import NAMES, SIZE, picture, write
from PIL import Image
from typer.testing import CliRunner

from siamese_diffusion.cli import app
from siamese_diffusion.config import Config, update
from siamese_diffusion.data.check import check
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.shards import ShardWriter
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def retar(shard: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """Write a shard again with members changed, or left out for None."""
    with tarfile.open(shard) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as archive:
        for changed in (change(name, content) for name, content in members):
            if changed is not None:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                archive.addfile(info, io.BytesIO(changed[1]))


def test_written_pairs_are_found_again(tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    pairs = DataFolder(tmp_path).pairs()
    assert [pair.name for pair in pairs] == NAMES
    for pair in pairs:
        image, mask = pair.read()
        assert np.array_equal(image, picture(pair.name)[0])
        assert np.array_equal(mask, picture(pair.name)[1])
        assert (pair.prompt, pair.extra) == ("A photo of polyp", {"seed": ord(pair.name[0])})
    assert not any(path.suffix == ".png" for path in tmp_path.rglob("*"))  # nothing was unpacked
    assert [path for _, path in DataFolder(tmp_path).masks()] == [pair.mask for pair in pairs]
    assert DataFolder(tmp_path).images() == [pair.image for pair in pairs]
    assert len({hash_files([pair.image.path]) for pair in pairs}) == len(NAMES)
    assert read_json(tmp_path / "shards.json") == {
        "pairs": 7,
        "shards": [
            {"file": f"shards/pairs-0000-{number:06d}.tar", "pairs": pairs} for number, pairs in enumerate((3, 3, 1))
        ],
    }


def test_the_webdataset_library_reads_a_shard(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write(tmp_path, NAMES)
    shards = sorted(map(str, (tmp_path / "shards").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [one["__key__"] for one in samples] == [*NAMES[:5], "f%2E1", "f%2E2"]  # a dot would end the key
    for name, one in zip(NAMES, samples, strict=True):
        assert np.array_equal(np.asarray(one["image.png"]), picture(name)[0])
        assert np.array_equal(np.asarray(one["mask.png"].convert("L")) > 127, picture(name)[1])
        assert one["json"] == {"prompt": "A photo of polyp", "seed": ord(name[0])}


def test_a_listing_may_name_members(tmp_path: Path) -> None:
    """As the folders do that a study makes of pairs which lie elsewhere."""
    write(tmp_path / "shards-of", NAMES)
    rows = [
        {"image": str(pair.image.path), "mask": str(pair.mask.path)}
        for pair in DataFolder(tmp_path / "shards-of").pairs()
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [pair.name for pair in DataFolder(tmp_path).pairs()] == NAMES
    (tmp_path / "pairs.jsonl").write_text(json.dumps(rows[0] | {"mask": rows[0]["mask"] + "x"}) + "\n")
    with pytest.raises(InputError, match="which is not there"):
        DataFolder(tmp_path).pairs()


@pytest.mark.parametrize("killed_in", range(len(NAMES)))
def test_resumed_shards_are_the_undisturbed_ones(tmp_path: Path, killed_in: int) -> None:
    write(tmp_path / "whole", NAMES)
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from packed import NAMES, picture
        from siamese_diffusion.data import shards
        name_of = shards.member_name
        def killed(name, kind):  # between the image and its mask
            return name_of(name, kind) if kind != "mask.png" else os.kill(os.getpid(), signal.SIGKILL)
        writer = shards.ShardWriter(Path({str(tmp_path / "cut")!r}), size=3)
        for number, name in enumerate(NAMES):
            if number == {killed_in}:
                shards.member_name = killed
            writer.write(name, *picture(name), "A photo of polyp", {{"seed": ord(name[0])}})
        """
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert killed.returncode == -signal.SIGKILL
    whole = [path.name for path in (tmp_path / "cut/shards").iterdir() if not path.name.startswith(".")]
    assert len(whole) == killed_in // 3  # and no half one
    if whole:
        assert len(DataFolder(tmp_path / "cut").pairs()) == 3 * len(whole)  # what is there can be used meanwhile
        with pytest.raises(InputError, match="already holds shards"):
            ShardWriter(tmp_path / "cut")
    write(tmp_path / "cut", NAMES, resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_shard_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    before = contents(tmp_path)
    (tmp_path / "shards/pairs-0000-000001.tar").unlink()
    with pytest.raises(InputError, match=r"pairs-0000-000001\.tar: is gone, shards\.json names it"):
        DataFolder(tmp_path).pairs()
    write(tmp_path, NAMES, resume=True)
    assert contents(tmp_path) == before


def test_processes_write_shards_of_their_own(tmp_path: Path) -> None:
    first = ShardWriter(tmp_path, size=2)
    second = ShardWriter(tmp_path, process=1, size=2)
    for name in NAMES:
        writer = first if NAMES.index(name) % 2 else second
        writer.write(name, *picture(name), "", {})
    second.close()
    assert not (tmp_path / "shards.json").exists()
    first.flush()
    first.close()
    assert [entry["file"].split("/")[1] for entry in read_json(tmp_path / "shards.json")["shards"]] == [
        f"pairs-{process:04d}-{number:06d}.tar" for process in (0, 1) for number in (0, 1)
    ]
    assert [pair.name for pair in DataFolder(tmp_path).pairs()] == NAMES
    again = ShardWriter(tmp_path, resume=True, process=1)
    assert again.done == set(NAMES)


def damage(shard: Path, how: str) -> None:
    content = shard.read_bytes()
    if how == "torn in a member":
        shard.write_bytes(content[:700])
    elif how == "torn between members":
        with tarfile.open(shard) as archive:
            shard.write_bytes(content[: archive.getmembers()[3].offset])
    elif how == "rubbish in it":
        with tarfile.open(shard) as archive:
            start = archive.getmembers()[3].offset
        shard.write_bytes(content[:start] + b"x" * 512 + content[start + 512 :])
    elif how == "no archive":
        shard.write_bytes(b"x" * 3000)
    elif how == "no mask":
        retar(shard, lambda name, content: None if name == "b.mask.png" else (name, content))
    elif how == "masks gone":
        retar(shard, lambda name, content: None if ".mask." in name else (name, content))
    elif how == "bad row":
        retar(shard, lambda name, content: (name, content[:5] if name == "b.json" else content))


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("torn in a member", "not a tar archive that can be read"),
        ("torn between members", "torn, its end is missing"),
        ("rubbish in it", "torn, its end is missing"),
        ("no archive", "not a tar archive"),
        ("no mask", "b.image.png: has no mask"),
        ("masks gone", "a.image.png: has no mask, and 2 more"),
        ("bad row", "b.json: not valid JSON"),
    ],
)
def test_a_damaged_shard_is_one_line_with_its_name(tmp_path: Path, how: str, word: str, manifest: bool) -> None:
    write(tmp_path, NAMES)
    shard = tmp_path / "shards/pairs-0000-000000.tar"
    damage(shard, how)
    if not manifest:
        (tmp_path / "shards.json").unlink()
    with pytest.raises(InputError, match=word.replace(".", r"\.")) as caught:
        DataFolder(tmp_path).pairs()
    assert str(caught.value).startswith(str(shard))
    assert "\n" not in str(caught.value)
    report = check(tmp_path)
    assert not report.as_dict()["usable"]
    assert any(problem.file.startswith(str(shard)) for problem in report.problems)
    with pytest.raises(InputError, match=r"pairs-0000-000000\.tar: .*; delete it, and --resume"):
        ShardWriter(tmp_path, resume=True)
    shard.unlink()
    write(tmp_path, NAMES, resume=True)
    assert len(DataFolder(tmp_path).pairs()) == len(NAMES)


def test_a_damaged_picture_names_its_shard(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"])
    shard = tmp_path / "shards/pairs-0000-000000.tar"
    retar(shard, lambda name, content: (name, content[:60] if name == "b.image.png" else content))
    pairs = DataFolder(tmp_path).pairs()
    pairs[0].read()
    with pytest.raises(InputError, match=r"pairs-0000-000000\.tar/b\.image\.png: the image is damaged"):
        pairs[1].read()
    assert [problem.kind for problem in check(tmp_path).problems] == ["unreadable"]
    retar(shard, lambda name, content: None if name == "b.image.png" else (name, content))  # after it was listed
    with pytest.raises(InputError, match=r"pairs-0000-000000\.tar: has no member b\.image\.png"):
        pairs[1].read()


def test_check_reads_shards(tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    report = check(tmp_path)
    assert (report.layout, report.pairs, report.formats) == ("WebDataset shards", 7, {"png RGB": 7})
    assert report.sizes["median"] == (SIZE, SIZE)
    assert not report.problems


def test_two_shards_with_one_pair(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b", "c"], size=2)
    (tmp_path / "shards.json").unlink()
    (tmp_path / "shards/pairs-0000-000002.tar").write_bytes((tmp_path / "shards/pairs-0000-000000.tar").read_bytes())
    with pytest.raises(InputError, match=r"pairs-0000-000002\.tar/a\.image\.png: has the base name of another file"):
        DataFolder(tmp_path).pairs()


def test_nobodys_own_data_is_touched(tmp_path: Path) -> None:
    for name in ("shards/mine.tar", "images/a.png", "pairs.jsonl"):
        path = tmp_path / name.replace("/", "-") / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"mine")
        for resume in (False, True):
            with pytest.raises(InputError, match="name another folder"):
                ShardWriter(tmp_path / name.replace("/", "-"), resume)
        assert path.read_bytes() == b"mine"
    write(tmp_path / "shards-of", NAMES)
    with pytest.raises(InputError, match="in shards"):
        PairWriter(tmp_path / "shards-of", resume=True)


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with ShardWriter(tmp_path, size=2) as writer:
        writer.write("a", *picture("a"), "", {})
        calls: dict[str, Callable[[], None]] = {
            "addfile": lambda: writer.write("b", *picture("b"), "", {}),
            "close": writer.flush,
        }
        for method, call in calls.items():
            with monkeypatch.context() as patch:
                patch.setattr(tarfile.TarFile, method, full)
                with pytest.raises(InputError, match=r"000000\.tar: no space left on the disk"):
                    call()
        assert not list((tmp_path / "shards").iterdir())


def test_sampled_shards_hold_what_a_sampled_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path, pairs: Path, tiny: Config
) -> None:
    config = update(tiny, "sample", shard_size=5)  # which does not divide into batches of three
    arguments: dict[str, Any] = {"per_mask": 2, "random_masks": "flip-scale-shift", "config": config, "device": "cpu"}
    sample(run, pairs, tmp_path / "folder", **arguments)
    sample(run, pairs, tmp_path / "shards", format="webdataset", **arguments)
    loose, packed = DataFolder(tmp_path / "folder").pairs(), DataFolder(tmp_path / "shards").pairs()
    for one, other in zip(loose, packed, strict=True):
        assert (one.name, one.prompt, one.extra) == (other.name, other.prompt, other.extra)
        assert hash_files(one.files) == hash_files(other.files)
    assert (tmp_path / "shards/grid.png").read_bytes() == (tmp_path / "folder/grid.png").read_bytes()
    assert [entry["pairs"] for entry in read_json(tmp_path / "shards/shards.json")["shards"]] == [5, 5, 5, 1]
    with tarfile.open(tmp_path / "shards/shards/pairs-0000-000000.tar") as archive:
        row = json.loads(archive.extractfile(f"{packed[0].name}.json").read())  # type: ignore[union-attr]
    line = read_jsonl(tmp_path / "folder/pairs.jsonl")[0]
    assert row == {key: value for key, value in line.items() if key not in ("image", "mask")}

    calls = 0
    add = ShardWriter.add

    def killed(self: ShardWriter, *rest: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise RuntimeError("killed")
        add(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", killed)
        with pytest.raises(RuntimeError, match="killed"):
            sample(run, pairs, tmp_path / "cut", format="webdataset", **arguments)
    assert [path.name for path in (tmp_path / "cut/shards").iterdir()] == ["pairs-0000-000000.tar"]
    with pytest.raises(InputError, match=r"--resume --format folder: .*says webdataset"):
        sample(run, pairs, tmp_path / "cut", resume=True, **arguments)
    with pytest.raises(InputError, match=r"sample\.seed = 5"):
        sample(run, pairs, tmp_path / "cut", seed=5, format="webdataset", resume=True, **arguments)
    result = sample(run, pairs, tmp_path / "cut", format="webdataset", resume=True, **arguments)
    assert (result["pairs"], result["drawn"]) == (16, 11)
    assert contents(tmp_path / "cut") == contents(tmp_path / "shards")


def test_format_is_an_option(tmp_path: Path, run: Path, pairs: Path) -> None:
    command = ["sample", "--checkpoint", run, "--masks", pairs, "--device", "cpu", "--out"]
    for form, status, said in (("webdataset", 0, "drawn: 8"), ("zip", 2, "folder or webdataset")):
        result = CliRunner().invoke(app, [*map(str, [*command, tmp_path / form]), "--format", form])
        assert result.exit_code == status
        assert said in result.output + result.stderr
    assert len(DataFolder(tmp_path / "webdataset").pairs()) == 8
    sample(run, tmp_path / "webdataset", tmp_path / "of-shards", device="cpu")  # its masks serve in their turn
    assert len(DataFolder(tmp_path / "of-shards").pairs()) == 8


def test_third_party_shards(tmp_path: Path) -> None:
    """JPEG images, "./" before the names, no rows."""
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/x.tar", "w") as archive:
        for name, form, pixels in (("a.image.jpg", "JPEG", picture("a")[0]), ("a.mask.png", "PNG", picture("a")[1])):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, form)
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content.getvalue())
            archive.addfile(info, io.BytesIO(content.getvalue()))
    (pair,) = DataFolder(tmp_path).pairs()
    image, mask = pair.read()
    assert image.shape == (SIZE, SIZE, 3)
    assert np.array_equal(mask, picture("a")[1])
