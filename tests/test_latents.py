from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from siamese_diffusion.config import DataConfig, LoopConfig, load_config
from siamese_diffusion.data.arrays import to_images, to_tensor
from siamese_diffusion.data.pairs import prompt_of
from siamese_diffusion.diffusion.latents import LatentData, build_latents, mask_hint, of_flips

COUNT, SIDE = 5, 8


def encode(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[:, :, ::2, ::2], torch.full_like(images[:, :, ::2, ::2], 0.1)


def embed(prompts: list[str]) -> Tensor:
    return torch.stack([torch.full((2, 3), float(len(prompt))) for prompt in prompts])


@pytest.fixture
def data(tmp_path: Path) -> LatentData:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    prompts = [prompt_of("polyp")] * 3 + [prompt_of("nevus!")] * 2
    return build_latents(images, prompts, encode, embed, "both", tmp_path / "x.npy", images[..., 0] > 127)


def config(*settings: str) -> tuple[LoopConfig, DataConfig]:
    loaded = load_config(None, ["data.flip=both", "train.batch_size=10", *settings])
    return loaded.train, loaded.data


def test_rows_do_not_depend_on_how_the_batch_is_split(data: LatentData) -> None:
    train, settings = config()
    whole = data.batch(3, range(10), train, settings)
    parts = [data.batch(3, range(i, i + 2), train, settings) for i in range(0, 10, 2)]
    for key, value in whole.items():
        if key != "progress":
            assert torch.equal(value, torch.cat([part[key] for part in parts])), key
    assert not torch.equal(whole["noise"], data.batch(4, range(10), train, settings)["noise"])


def test_hints_and_latents_are_flipped_alike(data: LatentData) -> None:
    train, settings = config()
    batch = data.batch(0, range(10), train, settings)
    again = encode(batch["image_hint"] * 2 - 1)[0]
    assert float((batch["latents"] - again).std()) == pytest.approx(0.1, abs=0.03)  # the posterior's spread, no more
    assert torch.equal(batch["mask_hint"], (batch["image_hint"][:, :1] * 255 > 127.5).float().expand(-1, 3, -1, -1))
    flipped = [bool((batch["image_hint"][i] != batch["image_hint"][j]).any()) for i in range(10) for j in range(i)]
    assert any(flipped)


def test_prompt_dropout_and_prompts(data: LatentData) -> None:
    lengths = {float(len(prompt_of(label))) for label in ("polyp", "nevus!")}
    train, settings = config("data.prompt_dropout=0")
    assert {float(row[0, 0]) for row in data.batch(0, range(10), train, settings)["text"]} == lengths
    train, settings = config("data.prompt_dropout=1")
    assert {float(row[0, 0]) for row in data.batch(0, range(10), train, settings)["text"]} == {0.0}


def test_progress_is_the_share_of_the_steps(data: LatentData) -> None:
    train, settings = config("train.steps=30")
    assert data.batch(10, range(2), train, settings)["progress"] == 10 / 30


def test_latents_are_read_back(data: LatentData, tmp_path: Path) -> None:
    def refuse(_: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("encoded again")

    images = np.zeros((COUNT, SIDE, SIDE, 3), np.uint8)
    again = build_latents(images, ["x"] * COUNT, refuse, embed, "both", tmp_path / "x.npy")
    assert np.array_equal(again.moments, data.moments)


def test_images_survive_the_round_trip() -> None:
    images = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    assert np.array_equal(to_images(to_tensor(images)), images)
    hint = mask_hint(torch.eye(4, dtype=torch.bool)[None])
    assert hint.shape == (1, 3, 4, 4)
    assert set(hint.unique().tolist()) == {0.0, 1.0}


def test_hint_dropout_drops_its_share_and_leaves_the_rest_of_the_sample(data: LatentData) -> None:
    train, settings = config()
    plain = data.batch(0, range(10), train, settings)
    assert "kept" not in plain
    given = [data.batch(step, range(10), train, settings, hint_dropout=0.3) for step in range(60)]
    for key, value in plain.items():
        assert torch.equal(given[0][key], value) if key != "progress" else given[0][key] == value
    share = float(torch.cat([batch["kept"] for batch in given]).float().mean())
    assert share == pytest.approx(0.7, abs=0.06)


def test_features_are_of_the_flip_that_is_drawn(data: LatentData, tmp_path: Path) -> None:
    assert data.images is not None
    data.features = of_flips(data.images, "both", lambda x: x[:, :, ::2, ::2], 3, tmp_path / "f.npy", "features")
    assert data.features.shape == (COUNT, 4, 3, SIDE // 2, SIDE // 2)
    train, settings = config()
    batch = data.batch(0, range(10), train, settings)
    torch.testing.assert_close(batch["features"], batch["image_hint"][:, :, ::2, ::2] * 2 - 1)
