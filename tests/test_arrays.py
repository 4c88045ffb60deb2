"""Arrays that are larger than memory: written part by part, mapped for reading, made again when a file changes."""

import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DiscPairs
from packed import NAMES
from packed import write as write_shards
from PIL import Image

from siamese_diffusion.config import Config, update
from siamese_diffusion.data import arrays
from siamese_diffusion.data.arrays import (
    array_file,
    cache_key,
    load_images,
    load_pairs,
    map_images,
    map_pairs,
    read_squared,
    remove_arrays,
)
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.diffusion import pretrain
from siamese_diffusion.diffusion.latents import build_latents
from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation.batches import batches, load
from siamese_diffusion.segmentation.segment import segment


def test_a_file_of_parts_is_the_one_numpy_saves(tmp_path: Path) -> None:
    for whole in (np.arange(30, dtype=np.float32).reshape(5, 2, 3), np.eye(5) > 0, np.zeros((5, 2), np.uint8)):
        with array_file(tmp_path / "parts.npy", 5) as add:
            for start in (0, 2, 4):
                add(whole[start : start + 2])
        np.save(tmp_path / "whole.npy", whole)
        assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def too_few(path: Path) -> None:
    with array_file(path, 3) as add:
        add(np.zeros((2, 2)))


def full(path: Path) -> None:
    with array_file(path, 3):
        raise OSError(28, "No space left on device")


def test_no_half_file_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 rows of 3"):
        too_few(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"x\.npy: no space left"):
        full(tmp_path / "x.npy")
    assert not list(tmp_path.iterdir())


def test_mapped_pairs_are_the_loaded_ones(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "CHUNK", 5)
    pairs = DataFolder(disc_pairs()).pairs()
    mapped, loaded = map_pairs(pairs, 24, tmp_path / "cache"), load_pairs(pairs, 24)
    for one, other in zip(mapped, loaded, strict=True):
        assert isinstance(one, np.memmap)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    images = [pair.image for pair in pairs]
    assert np.array_equal(map_images(images, 24, tmp_path / "other"), load_images(images, 24))

    def refuse(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(arrays, "read_squared", refuse)
    assert np.array_equal(map_pairs(pairs, 24, tmp_path / "cache")[0], loaded[0])
    with pytest.raises(AssertionError, match="read again"):
        map_pairs(pairs, 25, tmp_path / "cache")
    remove_arrays(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))
    assert np.array_equal(mapped[0], loaded[0])  # an open map stays good


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_file_that_is_replaced_is_noticed(disc_pairs: DiscPairs, tmp_path: Path, kind: str) -> None:
    pairs = DataFolder(disc_pairs()).pairs()
    map_pairs(pairs, 24, tmp_path / "cache")
    path = getattr(pairs[3], kind).path
    before = path.stat()
    pixels = np.asarray(Image.open(path))
    Image.fromarray(255 - pixels).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    for one, other in zip(map_pairs(pairs, 24, tmp_path / "cache"), load_pairs(pairs, 24), strict=True):
        assert np.array_equal(one, other)


def test_a_shard_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", NAMES)
    pairs = DataFolder(tmp_path / "data").pairs()
    mapped = map_pairs(pairs, 4, tmp_path / "cache")
    assert np.array_equal(mapped[0], read_squared(pairs, 4)[0])
    key = cache_key([pair.image.path for pair in pairs])
    shard = pairs[0].image.path.parent
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    assert cache_key([pair.image.path for pair in pairs]) != key
    assert cache_key([pair.image.path for pair in pairs][3:6]) == cache_key([pair.image.path for pair in pairs][3:6])


def test_a_bad_file_is_named_and_nothing_is_left(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    pairs = DataFolder(disc_pairs()).pairs()
    pairs[7].image.path.write_bytes(pairs[7].image.path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"007\.png: the image is damaged"):
        map_pairs(pairs, 24, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_who_comes_second_waits(disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = DataFolder(disc_pairs()).pairs()
    calls = []
    begun, go_on = threading.Event(), threading.Event()

    def read(part: Any, resolution: int) -> Any:
        calls.append(len(part))
        begun.set()
        assert go_on.wait(20)
        return read_squared(part, resolution)

    monkeypatch.setattr(arrays, "read_squared", read)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(map_pairs(pairs, 24, tmp_path))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert calls == [12]
    assert np.array_equal(found[0][0], found[1][0])


def peak(call: Any) -> int:
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_data(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "CHUNK", 4)
    few, many = DataFolder(disc_pairs(8, 16, "few")).pairs(), DataFolder(disc_pairs(64, 16, "many")).pairs()
    map_pairs(few, 128, tmp_path / "warm")
    one = 128 * 128 * 4
    small, large = (
        peak(lambda pairs=pairs: map_pairs(pairs, 128, tmp_path / str(len(pairs)))) for pairs in (few, many)
    )
    assert large < small + 8 * one  # while the arrays have 56 more
    images = np.load(next((tmp_path / "64").glob("images-*.npy")), mmap_mode="r")

    def latents(count: int) -> int:
        return peak(
            lambda: build_latents(
                images[:count],
                [""] * count,
                lambda x: (x[:, :, ::2, ::2], x[:, :, ::2, ::2]),
                lambda prompts: torch.zeros(len(prompts), 1, 1),
                "both",
                tmp_path / f"latents-{count}.npy",
            )
        )

    assert latents(64) < latents(16) + 8 * one  # numpy's share of it; a latent has 6 times these bytes


def test_batches_of_mapped_pairs_are_those_of_loaded_ones(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    pairs = DataFolder(disc_pairs(resolution=40)).pairs()
    for changes in ({}, {"colour_exchange": 0.5, "multiscale": "drawn", "scales": (1.0, 2.0), "augmentation": "none"}):
        settings = update(Config(), "segment", resolution=32, batch_size=4, **changes).segment
        made = [batches(source, source, settings) for source in (load(pairs, 32), load(pairs, 32, tmp_path))]
        for step in range(4):
            one, other = (batch_at(step, range(4)) for batch_at in made)
            for key, value in one.items():
                assert torch.equal(value, other[key])
                assert value.stride() == other[key].stride()  # on which the rounding of a convolution depends


def test_what_a_run_no_longer_needs_is_removed(
    disc_pairs: DiscPairs, tmp_path: Path, run: Path, backbone: Path
) -> None:
    for folder in (run, backbone):
        assert [path.name[:8] for path in (folder / "cache").glob("*.npy")] == ["latents-"]
    data = disc_pairs()
    write_shards(tmp_path / "made", NAMES)
    settings = {"network": "segformer", "resolution": 32, "batch_size": 4, "steps": 2, "warmup": 1}
    config = update(Config(), "segment", **settings)
    metrics = segment(data, tmp_path / "run", [], [tmp_path / "made"], config, device="cpu")
    assert metrics["train"]["synthetic"] == len(NAMES)
    assert not list((tmp_path / "run/cache").glob("*.npy"))


def test_a_first_stage_is_fitted_to_some_images_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    chosen = np.arange(1, 20, 2)
    assert len(pretrain._some(images, chosen)) == 10
    monkeypatch.setattr(pretrain, "FITTED", 16 * 4)
    levels = ((pretrain._some(images, chosen)[:, 0, 0, 0] + 1) * 127.5).round().tolist()
    assert levels == [1, 7, 13, 19]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _pickle(path: Path) -> None:
    path.unlink()
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


def _other(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def _floats(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float32))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(b"x" * 99)


DAMAGES = [_cut, _lengthen, _pickle, _other, _floats, _empty, _noise]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_anew(
    damage: Callable[[Path], object], disc_pairs: DiscPairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = DataFolder(disc_pairs(count=5)).pairs()
    whole = [np.array(part) for part in map_pairs(pairs, 16, tmp_path / "cache")]
    for kind, expected in zip(("images", "masks"), whole, strict=True):
        (path,) = (tmp_path / "cache").glob(f"{kind}-*.npy")
        capsys.readouterr()
        damage(path)
        for found, right in zip(map_pairs(pairs, 16, tmp_path / "cache"), whole, strict=True):
            assert np.array_equal(found, right)
        told = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
        assert len(told) == 1
        assert str(path) in told[0]
        assert np.load(path).dtype == expected.dtype
