"""Several classes from training to the network's use: each command reads, draws, scores and writes label maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_classes import cells
from tiny import TINY

from siamese_diffusion.config import Config, build_config, load_config
from siamese_diffusion.data.classes import every_prompt, hint_colours
from siamese_diffusion.data.copypaste import copy_paste
from siamese_diffusion.data.folder import DataFolder, open_as_written
from siamese_diffusion.data.phantom import KINDS, make_phantoms, phantom
from siamese_diffusion.data.prepare import prepare
from siamese_diffusion.diffusion.latents import LatentData, build_latents, mask_hint
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.evaluation.metrics.class_fit import class_scores, exchanged
from siamese_diffusion.files import read_csv, read_json
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.augment import Augmentation, augment, draw, identity
from siamese_diffusion.segmentation.export import export_network
from siamese_diffusion.segmentation.inference import at_size, read_label
from siamese_diffusion.segmentation.losses import bce_dice, classes_dice
from siamese_diffusion.segmentation.metrics import cut, join, score, score_labels
from siamese_diffusion.segmentation.networks.blocks import Outputs
from siamese_diffusion.segmentation.nnunet import export_nnunet
from siamese_diffusion.segmentation.predict import predict
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network

NAMES = ("nucleus", "cytoplasm")


def settings(**more: Any) -> Config:
    own = {"resolution": 32, "batch_size": 4, "steps": 2, "sample_every": 2, "network": "unet"}
    values = {**TINY, "segment": own, "evaluate": {"fit_steps": 2}}
    values["data"] = {**TINY["data"], "classes": NAMES, **more}
    return build_config(values, "tests")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    prepare(cells(folder / "raw", 8), folder / "pairs", labels="255=nucleus,128=cytoplasm")
    return folder / "pairs"


@pytest.fixture(scope="module")
def drawn(data: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of training, and pairs drawn by it."""
    folder = tmp_path_factory.mktemp("drawn")
    train(data, folder / "run", str(backbone), config=settings(), device="cpu")
    sample(folder / "run", data, folder / "new", device="cpu")
    return folder


@pytest.fixture(scope="module")
def network(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("network") / "net"
    segment(data, out, [], config=settings(), device="cpu")
    return out


def test_a_hint_shows_each_class_in_its_colour_and_one_class_white() -> None:
    labels = torch.tensor([[[0, 1], [2, 26]]], dtype=torch.uint8)
    hint = mask_hint(labels)
    assert hint.shape == (1, 3, 2, 2)
    np.testing.assert_array_equal(hint[0].movedim(0, 2).reshape(4, 3), hint_colours(26)[[0, 1, 2, 26]])
    mask = torch.tensor([[[False, True]]])
    np.testing.assert_array_equal(mask_hint(mask)[0].movedim(0, 2)[0], [[0, 0, 0], [1, 1, 1]])


def test_classes_are_left_out_of_hints_with_their_part_of_the_prompt(tmp_path: Path) -> None:
    config = settings(class_dropout=0.5, prompt_dropout=0.0, flip="none")
    masks = np.tile(np.array([[1, 2], [0, 2]], np.uint8).repeat(16, 0).repeat(16, 1), (1, 1, 1))
    prompts = every_prompt(NAMES)
    images = np.zeros((1, 32, 32, 3), np.uint8)

    def embed(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[[float(["", *prompts[1:]].index(text))]] for text in texts])

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(x), 1, 8, 8), torch.ones(len(x), 1, 8, 8)

    def latents(own: bool) -> LatentData:
        cache = tmp_path / "latents.npy"
        return build_latents(images, [prompts[-1]], encode, embed, "none", cache, masks, more=prompts, own=[own])

    found, seen = latents(False), set()
    for step in range(12):
        batch = found.batch(step, range(4), config.train, config.data)
        for hint, text in zip(batch["mask_hint"], batch["text"], strict=True):
            held = [bool((hint.movedim(0, 2) == torch.from_numpy(hint_colours(2)[i])).all(2).any()) for i in (1, 2)]
            assert int(text) == held[0] + 2 * held[1]
            seen.add(int(text))
    assert seen == {0, 1, 2, 3}
    named = latents(True)  # a prompt of its own stays, whatever is left out
    texts = [named.batch(step, range(4), config.train, config.data)["text"] for step in range(6)]
    assert torch.cat(texts).unique().tolist() == [3]


def test_a_run_draws_pairs_of_all_classes(data: Path, drawn: Path) -> None:
    assert load_config(drawn / "run" / "config.yaml").data.classes == NAMES
    made = open_as_written(drawn / "new")
    asked = DataFolder(data, settings=settings().data)
    for one, other in zip(made.pairs(), asked.pairs(), strict=True):
        assert one.name == other.name
        assert one.prompt == "A photo of nucleus and cytoplasm"
        np.testing.assert_array_equal(one.mask.read(), other.mask.squared(32))
    assert made.require_listing().classes == dict(enumerate(NAMES, 1))


def test_shards_hold_label_maps_too(data: Path, drawn: Path, tmp_path: Path) -> None:
    sample(drawn / "run", data, tmp_path / "s", device="cpu", format="webdataset", random_masks="flip-scale-shift")
    masks = [pair.mask.read() for pair in open_as_written(tmp_path / "s").pairs()]
    assert {label for mask in masks for label in np.unique(mask)} == {0, 1, 2}
    assert masks[0].dtype == np.uint8


def test_lesions_of_several_classes_come_into_images(data: Path, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "healthy").mkdir()
    for i in range(2):
        Image.new("RGB", (40, 40), (150, 90, 80)).save(tmp_path / "healthy" / f"{i}.png")
    sample(drawn / "run", data, tmp_path / "into", device="cpu", into=tmp_path / "healthy")
    for pair in open_as_written(tmp_path / "into").pairs():
        mask = pair.mask.read()
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert (mask == 1).any()


def test_masks_of_classes_that_a_run_does_not_know_are_refused(drawn: Path, tmp_path: Path) -> None:
    raw = cells(tmp_path / "raw", 4, (1, 2))
    for path in (raw / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[:4] = 3
        Image.fromarray(mask).save(path)
    prepare(raw, tmp_path / "three", labels="1=nucleus,2=cytoplasm,3=rim")
    with pytest.raises(InputError, match="rim, which the run has not learned"):
        sample(drawn / "run", tmp_path / "three", tmp_path / "out", device="cpu")
    config = build_config({"data": {"classes": NAMES[::-1]}}, "tests")
    with pytest.raises(InputError, match="in this order"):
        sample(drawn / "run", tmp_path / "three", tmp_path / "out", device="cpu", config=config)
    with pytest.raises(InputError, match=r"data\.classes = nucleus"):
        sample(drawn / "run", raw, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_network_learns_and_says_labels(data: Path, network: Path, tmp_path: Path) -> None:
    metrics = read_json(network / "metrics.json")
    assert {"mDice nucleus", "mDice cytoplasm", "mIoU nucleus"} <= metrics["val"].keys()
    trained = load_network(network)
    assert trained.classes == NAMES
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    probable = trained.probability(image)
    assert probable.shape == (3, 50, 40)
    np.testing.assert_allclose(probable.sum(0), 1, atol=1e-5)
    mask = trained.predict(image)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, probable.argmax(0))
    predict(network, data, tmp_path / "p", masks=data, probability_maps=True, device="cpu")
    row = read_csv(tmp_path / "p" / "predictions.csv", ("name", "area", "area nucleus", "area cytoplasm"))[0]
    assert int(row["area"]) == int(row["area nucleus"]) + int(row["area cytoplasm"])
    seen = read_label(tmp_path / "p" / "masks" / f"{row['name']}.png", several=True)
    assert [int((seen == label).sum()) for label in (1, 2)] == [int(row["area nucleus"]), int(row["area cytoplasm"])]
    assert len(list((tmp_path / "p" / "probabilities").iterdir())) == 16
    assert "mDice cytoplasm" in read_json(tmp_path / "p" / "metrics.json")["scores"]
    with pytest.raises(InputError, match="--threshold: is for one class"):
        predict(network, data, tmp_path / "q", threshold=0.4, device="cpu")


def test_an_exported_network_gives_every_class(network: Path, tmp_path: Path) -> None:
    export_network(network, tmp_path / "x", "torchscript")
    card = read_json(tmp_path / "x" / "model.json")
    assert card["output"]["shape"] == ["batch", 3, 32, 32]
    assert card["classes"] == {"0": "background", "1": "nucleus", "2": "cytoplasm"}
    found = torch.jit.load(str(tmp_path / "x" / "model.pt"))(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 32, 32))


@pytest.mark.parametrize("name", sorted(networks.BINARY))
def test_networks_of_one_class_say_so(name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name}: is published for one class.*unet, segformer, smp"):
        segment(data, tmp_path / "n", [], config=settings(), network=name, device="cpu")


@pytest.mark.parametrize("name", ["unet", "segformer", "smp"])
def test_the_others_have_a_map_for_each_class(name: str) -> None:
    found = networks.create(name, classes=3).eval()(torch.zeros(1, 3, 32, 32))
    assert found.shape == (1, 4, 32, 32)


def test_losses_of_one_class_are_refused_with_several(data: Path, tmp_path: Path) -> None:
    config = build_config({"data": {"classes": NAMES}, "segment": {"loss": "structure", "resolution": 32}}, "tests")
    with pytest.raises(InputError, match=r"segment\.loss = structure: is of one class"):
        segment(data, tmp_path / "n", [], config=config, device="cpu")


def test_the_judge_scores_each_class_and_filter_takes_the_worst(data: Path, drawn: Path, tmp_path: Path) -> None:
    found = evaluate(data, drawn / "new", tmp_path / "e", config=settings(), device="cpu")
    fit = found["fit"]
    assert set(fit["classes"]) == set(NAMES)
    assert {"mean", "low", "high"} <= fit["exchanged"].keys()
    rows = read_csv(tmp_path / "e" / "fit.csv", ("name", "dice", "worst", "dice nucleus", "dice cytoplasm"))
    for row in rows:
        each = [float(row[f"dice {name}"]) for name in NAMES]
        known = [value for value in each if value == value]
        assert float(row["worst"]) == pytest.approx(min(known), abs=1e-6)
        assert float(row["dice"]) == pytest.approx(np.mean(known), abs=1e-5)
    least = sorted(float(row["worst"]) for row in rows)[-1]
    kept = filter_(tmp_path / "e", tmp_path / "k", min_dice=least, worst_class=True, anyway=True)["kept"]
    assert kept == sum(float(row["worst"]) >= least for row in rows)
    whole = {pair.name: pair.mask.read() for pair in open_as_written(drawn / "new").pairs()}
    for pair in open_as_written(tmp_path / "k").pairs():
        np.testing.assert_array_equal(pair.mask.read(), whole[pair.name])


def test_nnunet_gets_the_names_and_its_labels_are_scored(data: Path, tmp_path: Path) -> None:
    export_nnunet(data, tmp_path / "x", "Cells", config=settings(), folds=1)
    raw = next((tmp_path / "x" / "nnUNet_raw").iterdir())
    assert read_json(raw / "dataset.json")["labels"] == {"background": 0, "nucleus": 1, "cytoplasm": 2}
    labels = sorted((raw / "labelsTr").iterdir())
    assert set(np.unique(np.asarray(Image.open(labels[0])))) == {0, 1, 2}
    (tmp_path / "seen").mkdir()
    for path in labels:  # as if nnU-Net had taken each nucleus for cytoplasm
        seen = np.array(Image.open(path))
        seen[seen == 1] = 2
        Image.fromarray(seen).save(tmp_path / "seen" / path.name)
    table = tmp_path / "x" / "pairs.csv"
    found = predict(None, None, tmp_path / "s", masks=data, from_nnunet=tmp_path / "seen", pairs=table)["scores"]
    assert found["mDice nucleus"] == 0
    assert 0.5 < found["mDice cytoplasm"] < 1


def test_copies_paste_a_class_with_what_it_touches(data: Path, tmp_path: Path) -> None:
    pairs = DataFolder(data, settings=settings().data).pairs()
    copy_paste(pairs, tmp_path / "c", 40, "cell", blend="feather")
    rows = open_as_written(tmp_path / "c").pairs()
    assert any(row.extra["source"] for row in rows)
    assert all(set(np.unique(row.mask.read())) == {0, 1, 2} for row in rows)


def test_phantoms_of_two_kinds(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "p", 6, 32, kinds=2)
    folder = open_as_written(tmp_path / "p")
    assert folder.decoding.class_names == KINDS
    held = [set(np.unique(pair.mask.read()).tolist()) - {0} for pair in folder.pairs()]
    assert set().union(*held) == {1, 2}
    for pair, labels in zip(folder.pairs(), held, strict=True):
        assert pair.prompt == "A photo of " + " and ".join(KINDS[label - 1] for label in sorted(labels))
    one = phantom(0, 0, 48)[1]
    assert one.dtype == np.bool_


def test_labels_are_warped_as_their_planes_are() -> None:
    labels = torch.zeros(1, 1, 24, 24, dtype=torch.uint8)
    labels[..., 6:18, 6:18], labels[..., 10:14, 10:14] = 2, 1
    image = torch.zeros(1, 3, 24, 24, dtype=torch.uint8)
    np.testing.assert_array_equal(augment(image, labels, identity(1))[1], labels.float())
    how = draw(4, torch.Generator().manual_seed(3))
    for i in range(4):
        one = Augmentation(how.affine[i : i + 1], how.colour[i : i + 1])
        found = augment(image, labels, one)[1]
        assert set(found.unique().tolist()) <= {0, 1, 2}
        union = augment(image, labels != 0, one)[1]
        assert float((union != (found != 0)).float().mean()) < 0.05
    np.testing.assert_array_equal(augment(image, labels * 0, identity(1))[1], torch.zeros(1, 1, 24, 24))


def test_the_loss_of_two_logits_is_that_of_their_difference() -> None:
    """With one class, softmax of (0, x) is the sigmoid of x."""
    random = torch.Generator().manual_seed(0)
    logit = torch.randn(2, 1, 8, 8, generator=random, dtype=torch.float64)
    masks = (torch.rand(2, 1, 8, 8, generator=random) > 0.5).double()
    two = torch.cat([torch.zeros_like(logit), logit], 1)
    one, other = bce_dice(Outputs([logit]), masks), classes_dice(Outputs([two]), masks)
    torch.testing.assert_close(one.dice.double(), other.dice.double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.bce.double(), other.bce.double(), atol=1e-6, rtol=1e-6)


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_seen_counts_nothing() -> None:
    true = torch.zeros(3, 4, 4, dtype=torch.uint8)
    true[0, :2], true[1, :2] = 1, 1
    seen = true.clone()
    seen[1, 3] = 2  # not there
    found = score_labels(seen, true, ["a", "b"])
    assert found.classes is not None
    np.testing.assert_array_equal(found.classes.dice.numpy(), [[1, np.nan], [1, 0], [np.nan, np.nan]])
    assert found.dice.tolist() == [1, 0.5, 1]
    means = found.means()
    assert (means["mDice a"], means["mDice b"], means["mDice"]) == (1, 0, 0.5)
    assert (means["count"], means["healthy"], means["specificity"]) == (3, 1, 1)
    parts = join([score_labels(seen[i : i + 1], true[i : i + 1], ["a", "b"]) for i in range(3)])
    assert parts.means() == means


def test_scores_of_probabilities_are_those_of_the_likeliest_label() -> None:
    probable = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    labels = cut(probable)
    assert labels.dtype == torch.uint8
    assert score(probable, labels, names=["a", "b"]).means()["mDice"] == 1


def test_maps_of_classes_at_the_size_of_their_image() -> None:
    maps = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)
    maps /= maps.sum(0)
    for fit in ("squash", "pad", "crop"):
        found = at_size(maps, (20, 30), fit)
        assert found.shape == (3, 20, 30)
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found[0, 0, 0] == 1  # what crop cut off is background


def test_fit_with_classes_exchanged() -> None:
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[:, :4], masks[:, 4:6] = 1, 2
    np.testing.assert_array_equal(np.unique(exchanged(masks, 2), return_counts=True)[1], [32, 32, 64])
    assert class_scores(masks, masks, NAMES)["dice"].tolist() == [1, 1]
    assert class_scores(masks, exchanged(masks, 2), NAMES)["dice"].tolist() == [0, 0]
