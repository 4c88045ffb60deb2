"""The network in the user's hands: masks of new images at their own size, of one image, a folder, a video."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import DiscPairs
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from siamese_diffusion.config import Config, dump_config, update
from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.predict import predict
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network

SIDE = 32


class Reds(nn.Module):
    """Sees what is redder than 0.45, before any training."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 1, 1)
        with torch.no_grad():
            self.see.weight.copy_(torch.tensor([40.0, 0.0, 0.0]).view(1, 3, 1, 1))
            self.see.bias.fill_(-18.0)  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.see(images)
        return logits


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run whose network needs no training."""
    monkeypatch.setattr(networks, "create", lambda name, pretrained=False: Reds())
    run = tmp_path / "network"
    run.mkdir()
    save_file(Reds().state_dict(), run / "best.safetensors")
    (run / "config.yaml").write_text(dump_config(update(Config(), "segment", resolution=SIDE)))
    (run / "metrics.json").write_text("{}")
    return run


def picture(lesions: list[tuple[slice, slice]], height: int = 64, width: int = 96) -> np.ndarray:
    image = np.full((height, width, 3), 40, np.uint8)
    for place in lesions:
        image[place] = (220, 60, 60)
    return image


BOTH = [(slice(8, 24), slice(8, 32)), (slice(40, 56), slice(56, 88))]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    folder.mkdir()
    Image.fromarray(picture(BOTH)).save(folder / "a.png")
    Image.fromarray(picture(BOTH[:1], 128, 64)).save(folder / "b.png")
    Image.fromarray(picture([])).save(folder / "healthy.png")
    return folder


def test_masks_at_the_images_own_size(network: Path, tmp_path: Path) -> None:
    result = predict(network, folder_of(tmp_path), tmp_path / "out", device="cpu", probability_maps=True, batch_size=2)
    assert (result["images"], result["healthy"]) == (3, 1)
    rows = {row["name"]: row for row in table(tmp_path / "out")}
    assert [rows[name]["components"] for name in ("a", "b", "healthy")] == ["2", "1", "0"]
    assert rows["healthy"]["mean_probability"] == ""
    for name, lesions, shape in (("a", BOTH, (64, 96)), ("b", BOTH[:1], (128, 64)), ("healthy", [], (64, 96))):
        found = Image.open(tmp_path / "out" / "masks" / f"{name}.png")
        wanted = picture(lesions, *shape)[..., 0] > 100
        labels = np.asarray(found)
        assert found.mode == "P"  # a viewer shows lesions white, a program reads 0 and 1
        assert labels.shape == shape
        assert set(np.unique(labels)) <= {0, 1}
        assert (labels.astype(bool) != wanted).mean() < 0.03  # the outline is that of a 32-pixel map
        assert int(rows[name]["area"]) == int(labels.sum())
        assert Image.open(tmp_path / "out" / "overlays" / f"{name}.jpg").width >= shape[1]
        grey = np.asarray(Image.open(tmp_path / "out" / "probabilities" / f"{name}.png"))
        assert np.array_equal(grey > 127, labels.astype(bool))


def test_the_figures_are_those_of_segment(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "create", lambda name, pretrained=False: Reds())
    data, test = disc_pairs(), disc_pairs(name="test", seed=2, count=5, resolution=48)
    for where in ("input", "native"):
        config = update(Config(), "segment", resolution=SIDE, steps=1, learning_rate=1e-9, batch_size=4, score_at=where)
        metrics = segment(data, tmp_path / where, [test], config=config, device="cpu")
        result = predict(tmp_path / where, test, tmp_path / f"out-{where}", masks=test, device="cpu")
        assert result["scores"] == pytest.approx(metrics["test"]["test"], abs=1e-6)
        assert json.loads((tmp_path / f"out-{where}" / "metrics.json").read_text())["scores"] == result["scores"]


def test_one_image_a_video_and_flips(network: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    predict(network, folder / "a.png", tmp_path / "one", overlays=False, tta=True, device="cpu")
    assert [row["name"] for row in table(tmp_path / "one")] == ["a"]
    assert not (tmp_path / "one" / "overlays").exists()
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))  # type: ignore[attr-defined]
    for lesions in (BOTH, BOTH[:1], []):
        writer.write(picture(lesions)[..., ::-1].copy())
    writer.release()
    predict(network, file, tmp_path / "video", device="cpu", batch_size=2)
    rows = table(tmp_path / "video")
    assert [(row["name"], row["components"]) for row in rows] == [
        ("clip-000001", "2"),
        ("clip-000002", "1"),
        ("clip-000003", "0"),
    ]


def test_mp4_is_a_label_each_frame(network: Path, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 64))  # type: ignore[attr-defined]
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no mp4")
    for lesions in (BOTH[:1], [], BOTH):
        writer.write(picture(lesions)[..., ::-1].copy())
    writer.release()
    result = predict(network, file, tmp_path / "out", device="cpu", batch_size=2)
    assert (result["images"], result["healthy"]) == (3, 1)
    labels = [np.asarray(Image.open(tmp_path / f"out/masks/clip-{i:06d}.png")) for i in (1, 2, 3)]
    assert [label.shape for label in labels] == [(64, 96)] * 3
    assert not labels[1].any()
    assert ((labels[0] > 0) != (picture(BOTH[:1])[..., 0] > 100)).mean() < 0.03


def test_an_animation_is_not_its_first_frame(network: Path, tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(lesions)) for lesions in (BOTH[:1], [], BOTH)]
    for suffix in ("gif", "tif"):
        (tmp_path / suffix).mkdir()
        frames[0].save(tmp_path / suffix / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match=rf"a\.{suffix}: holds 3 images; give an animation alone"):
            predict(network, tmp_path / suffix, tmp_path / "out", device="cpu")
    predict(network, tmp_path / "gif/a.gif", tmp_path / "out", device="cpu")
    assert [(row["name"], row["components"]) for row in table(tmp_path / "out")] == [
        ("a-000001", "1"),
        ("a-000002", "0"),
        ("a-000003", "2"),
    ]


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit", "1 x 1", "cmyk"])
def test_images_of_every_kind(kind: str, network: Path, tmp_path: Path) -> None:
    red = picture(BOTH[:1])
    images = {
        "grey": Image.fromarray(red[..., 0]),
        "alpha": Image.fromarray(np.dstack([red, np.full(red.shape[:2], 255, np.uint8)])),
        "16 bit": Image.fromarray(red[..., 0].astype(np.uint16) * 250),
        "1 x 1": Image.fromarray(red[8:9, 8:9]),
        "cmyk": Image.fromarray(red).convert("CMYK"),
    }
    file = tmp_path / ("a.tif" if kind == "cmyk" else "a.png")
    images[kind].save(file)
    predict(network, file, tmp_path / "out", device="cpu", probability_maps=True)
    label = np.asarray(Image.open(tmp_path / "out/masks/a.png"))
    wanted = np.ones((1, 1), bool) if kind == "1 x 1" else red[..., 0] > 100
    assert label.shape == wanted.shape
    assert ((label > 0) != wanted).mean() < 0.03


def test_an_interrupted_call_goes_on_to_the_same(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamese_diffusion.segmentation import predict as module

    folder = folder_of(tmp_path)
    predict(network, folder, tmp_path / "whole", device="cpu", batch_size=2)
    write, calls = module._write_one, 0

    def dies(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        return write(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_one", dies)
        with pytest.raises(KeyboardInterrupt):
            predict(network, folder, tmp_path / "cut", device="cpu", batch_size=2)
    with pytest.raises(InputError, match="--resume"):
        predict(network, folder, tmp_path / "cut", device="cpu", batch_size=2)
    with pytest.raises(InputError, match="--threshold"):
        predict(network, folder, tmp_path / "cut", device="cpu", batch_size=2, threshold=0.7, resume=True)
    predict(network, folder, tmp_path / "cut", device="cpu", batch_size=2, resume=True)
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert len(files) > 6
    for path in files:
        assert (tmp_path / "cut" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path


def test_in_python(network: Path, tmp_path: Path) -> None:
    loaded = load_network(network)
    folder = folder_of(tmp_path)
    image = picture(BOTH)
    wanted = np.asarray(Image.open(folder / "a.png").convert("RGB"))[..., 0] > 100
    for given in (folder / "a.png", str(folder / "a.png"), image, Image.fromarray(image)):
        mask = loaded.predict(given)
        assert mask.shape == (64, 96)
        assert mask.dtype == np.bool_
        assert (mask != wanted).mean() < 0.03
    assert np.allclose(loaded.probability(image, flips=True), loaded.probability(image), atol=0.2)
    assert not loaded.predict(picture([])).any()
    assert loaded.predict(np.zeros((1, 1), np.uint8)).shape == (1, 1)
    for wrong in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros(3, np.uint8)):
        with pytest.raises(InputError, match=r"expected uint8"):
            loaded.predict(wrong)


def test_wrong_input_is_one_line(network: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    out = tmp_path / "out"
    for images, line in (
        (tmp_path / "absent", "no such file"),
        (network / "config.yaml", "neither an image nor a video"),
    ):
        with pytest.raises(InputError, match=line):
            predict(network, images, out, device="cpu")
    with pytest.raises(InputError, match="not a finished run of segment"):
        predict(folder, folder, out, device="cpu")
    with pytest.raises(InputError, match=r"--threshold 1\.5"):
        predict(network, folder, out, threshold=1.5, device="cpu")
    with pytest.raises(InputError, match="--images"):
        predict(network, folder, folder / "inside", device="cpu")
    (folder / "broken.png").write_bytes(b"no picture")  # told before the others are looked at
    with pytest.raises(InputError, match=r"broken\.png: not an image that can be read"):
        predict(network, folder, out, device="cpu")
    (folder / "broken.png").unlink()
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"torn\.mp4: the video cannot be read"):
        predict(network, torn, out, device="cpu")
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(masks / "a.png")
    with pytest.raises(InputError, match=r"has no mask called b \(and 1 more\)"):
        predict(network, folder, out, masks=masks, device="cpu")
    assert not out.exists()
