"""Extractors that need no download, and the cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from siamese_diffusion import imagenet
from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation import extractors
from siamese_diffusion.evaluation import features as module
from siamese_diffusion.evaluation.features import FLIPS, Extractor, features

CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(11)]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
    return [ImageFile(path) for path in paths]


def corners(calls: list[int] | None = None, key: str = "corners") -> Extractor:
    def embed(batch: Tensor) -> Tensor:
        if calls is not None:
            calls.append(len(batch))
        return batch[:, :, 0, 0]

    return Extractor("corners", embed, key, "none")


def test_features_are_of_the_image_in_each_flip(images: list[ImageFile], tmp_path: Path) -> None:
    found = features(images, corners(), tmp_path / "cache", 24, batch_size=4, flips=FLIPS)
    assert found.shape == (11, 4, 3)
    assert isinstance(found, np.memmap)
    pixels = np.stack([np.asarray(Image.open(image.path)) for image in images])
    for flip, corner in enumerate((pixels[:, 0, 0], pixels[:, 0, -1], pixels[:, -1, 0], pixels[:, -1, -1])):
        np.testing.assert_array_equal(found[:, flip], corner)


def test_the_cache_depends_on_content_weights_and_size_and_not_on_names(
    images: list[ImageFile], tmp_path: Path
) -> None:
    calls: list[int] = []
    cache = tmp_path / "cache"
    features(images, corners(calls), cache, 24, batch_size=8)
    assert calls == [8, 3]
    moved = [ImageFile(image.path.rename(image.path.with_name(f"other-{image.path.name}"))) for image in images]
    features(moved, corners(calls), cache, 24)
    assert len(calls) == 2
    for change in ({"key": "other"}, {"resolution": 16}, {"content": True}):
        before = len(calls)
        if "content" in change:
            Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(moved[0].path)
        features(moved, corners(calls, str(change.get("key", "corners"))), cache, int(change.get("resolution", 24)))
        assert len(calls) > before, change


def test_a_killed_pass_goes_on_with_the_next_shard(
    images: list[ImageFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 4)
    cache, calls = tmp_path / "cache", list[int]()
    whole = np.array(features(images, corners(), tmp_path / "other", 24))

    class Killed(Exception):  # noqa: N818
        pass

    def dies(batch: Tensor) -> Tensor:
        if len(calls) == 2:
            raise Killed
        calls.append(len(batch))
        return batch[:, :, 0, 0]

    with pytest.raises(Killed):
        features(images, Extractor("corners", dies, "corners", "none"), cache, 24)
    later: list[int] = []
    found = features(images, corners(later), cache, 24)
    assert (calls, later) == ([4, 4], [3])
    np.testing.assert_array_equal(found, whole)
    assert len(list(cache.rglob("*"))) == 1  # the shards are gone


def test_what_a_call_left_that_was_killed_after_it_joined_its_shards_goes(
    images: list[ImageFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr("siamese_diffusion.evaluation.features.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            features(images, corners(), cache, 24)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    calls: list[int] = []
    features(images, corners(calls), cache, 24)
    assert not calls
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


def test_an_unreadable_image_is_named(images: list[ImageFile], tmp_path: Path) -> None:
    images[5].path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"5\.png"):
        features(images, corners(), tmp_path / "cache", 24)


def test_local_timm_weights_with_or_without_a_classifier(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False).eval()
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    extractor = extractors.create(f"timm:resnet10t@{file}", CPU)
    batch = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    size = model.default_cfg["input_size"][-1]
    with torch.inference_mode():
        found = extractor.embed(batch)
        large = torch.nn.functional.interpolate(batch / 255, size=(size, size), mode="bicubic", antialias=True).clamp(
            0, 1
        )
        mean, std = (torch.tensor(model.default_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        expected = model.forward_head(model.forward_features((large - mean) / std), pre_logits=True)
    torch.testing.assert_close(found, expected)
    assert str(size) in extractor.resizing

    save_file({name: value for name, value in model.state_dict().items() if "layer3" not in name}, file)
    with pytest.raises(InputError, match="lacks layer3"):
        extractors.create(f"timm:resnet10t@{file}", CPU)
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as weights"):
        extractors.create(f"timm:resnet10t@{file}", CPU)


@pytest.mark.skipif(
    imagenet.installed(imagenet.LITE0, imagenet.PACKAGES[imagenet.LITE0]) is None, reason="needs the extra imagenet"
)
def test_weights_of_an_installed_package_are_asked_of_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained=False, **more: pytest.fail("hub") if pretrained else create(name, **more),
    )
    extractor = extractors.create("timm:tf_efficientnet_lite0", CPU)
    assert extractors.create("timm:tf_efficientnet_lite0", CPU).key == extractor.key  # no random weight is left in it
    with torch.inference_mode():
        assert extractor.embed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 1280)


def test_clip_from_a_folder(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**shape, image_size=32, patch_size=16, projection_dim=12)
    model = CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path / "clip")
    extractor = extractors.create(f"clip:{tmp_path / 'clip'}", CPU)
    assert extractor.family == "clip"
    batch = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        found = extractor.embed(batch)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
        expected = model(pixel_values=(batch / 255 - mean) / std).image_embeds
    assert found.shape == (2, 12)
    torch.testing.assert_close(found, expected)


def test_inception_is_torch_fidelitys(monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights in the place of the ones that would be downloaded."""
    from torch_fidelity import feature_extractor_inceptionv3 as source

    monkeypatch.setattr(source, "load_state_dict_from_url", lambda *args, **kwargs: {})
    monkeypatch.setattr(source.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
    extractor = extractors.create("inception", CPU)
    with torch.inference_mode():
        assert extractor.embed(torch.randint(0, 255, (2, 3, 40, 40), dtype=torch.uint8)).shape == (2, 2048)
    assert extractor.family == "inception"


@pytest.mark.parametrize("name", ["inception", "clip", "dinov2", "timm:resnet10t"])
def test_weights_that_cannot_be_had_are_told_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    import transformers
    from torch_fidelity import feature_extractor_inceptionv3 as source

    def offline(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no route to host\nand much more")

    monkeypatch.setattr(source, "load_state_dict_from_url", offline)
    monkeypatch.setattr(transformers.CLIPVisionModelWithProjection, "from_pretrained", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError) as caught:
        extractors.create(name, CPU)
    line = str(caught.value)
    assert "\n" not in line
    assert name in line
    assert "no route to host" in line
    assert "--features judge works offline" in line


def test_pickles_are_loaded_as_tensors_only(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="cannot be had"), extractors.weights_of("inception"):
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["fid", "timm:no_such_model", "timm:resnet10t@/no/file", "clip:/no/folder"])
def test_unknown_extractors(name: str) -> None:
    with pytest.raises(InputError, match="--features"):
        extractors.create(name, CPU)


def test_lpips_pairs_are_of_two_images_and_distances_reach_the_caller(images: list[ImageFile]) -> None:
    from siamese_diffusion.evaluation.metrics.lpips import pair_distances

    sizes: list[tuple[int, ...]] = []

    def distance(first: Tensor, second: Tensor) -> Tensor:
        sizes.append(tuple(first.shape[1:]))
        return (first - second).abs().mean((1, 2, 3))

    found = pair_distances(images, distance, 24, count=40, batch_size=16)
    assert 11 <= len(found) <= 40
    assert found.min() > 0.1  # an image with itself would be 0
    assert set(sizes) == {(3, 64, 64)}
    assert set(pair_distances([images[0]] * 3, distance, 24, count=10)) == {0.0}
