"""The prior of masks: layouts, the network, drawing, the command `train-masks`, and `sample --masks PRIOR`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY

from siamese_diffusion.config import Config, build_config, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.diffusion import mask_prior
from siamese_diffusion.diffusion.distance_maps import to_labels, to_maps
from siamese_diffusion.diffusion.drawn_masks import TRIES, Condition, draw_masks, parse_condition
from siamese_diffusion.diffusion.layouts import Layouts, layouts_of
from siamese_diffusion.diffusion.mask_prior import (
    MaskPrior,
    as_they_are,
    begin,
    load_prior,
    moved,
    save_prior,
    turned,
)
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.errors import InputError
from siamese_diffusion.mask_training import render, train_masks
from siamese_diffusion.run_status import status

SIZE = 32
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] + 0.5
SETTINGS = build_config(TINY, "tests").train_masks


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return np.asarray(np.hypot(ROWS - y, COLUMNS - x) < radius)


def discs(count: int, seed: int = 0, classes: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    labels = np.zeros((count, SIZE, SIZE), np.uint8)
    for i, label in enumerate(labels):
        y, x = random.uniform(10, 22, 2)
        radius = random.uniform(3, 8)
        label[disc(y, x, radius)] = 1 + i % classes
    return labels


def mask_folder(folder: Path, labels: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for i, label in enumerate(labels):
        Image.fromarray((label > 0).astype(np.uint8) * 255).save(folder / f"{i:03d}.png")
    return folder


class PerfectPrior:
    """Draws a disc of just the area that a layout asks for, in the middle: what a well trained prior would."""

    def __call__(self, prior: MaskPrior, layouts: Layouts, keys: Any, seed: int, steps: int) -> torch.Tensor:
        line = (np.arange(prior.side) + 0.5) / prior.side - 0.5
        away = np.hypot(line[:, None], line[None])
        maps = [np.tanh((np.sqrt(area / np.pi) - away) / 0.3)[None] for area in layouts.whole]
        return torch.from_numpy(np.stack(maps)).float()


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = PerfectPrior()
    monkeypatch.setattr(MaskPrior, "draw", lambda *arguments: drawn(*arguments))


class TestLayouts:
    def test_of_masks(self) -> None:
        labels = np.zeros((2, 40, 40), np.uint8)
        labels[0, :10, 10:20] = 1
        labels[1, 5:10, 5:10], labels[1, 30:35, 30:35] = 2, 1
        found = layouts_of(labels, 2)
        assert found.areas == pytest.approx(np.array([[100, 0], [25, 25]]) / 1600)
        assert found.places == pytest.approx(np.array([[0.375, 0.125], [0.5, 0.5]]))
        assert found.sides.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
        assert found.parts.tolist() == [1, 2]

    def test_draws_are_like_the_masks_and_not_the_masks(self) -> None:
        seen = layouts_of(discs(200), 1)
        random = np.random.default_rng(0)
        drawn = [seen.draw(random) for _ in range(400)]
        areas = np.array([one.areas[0, 0] for one in drawn])
        assert np.median(areas) == pytest.approx(np.median(seen.areas), rel=0.2)
        assert not np.isin(areas, seen.areas).any()
        assert all(0 < place < 1 for one in drawn for place in one.places[0])

    def test_draws_keep_to_a_range(self) -> None:
        seen = layouts_of(discs(50), 1)
        random = np.random.default_rng(0)
        assert all(0.05 <= seen.draw(random, 0.05, 0.06).whole[0] <= 0.06 for _ in range(20))
        narrow = float(seen.whole[3])
        assert seen.draw(random, narrow, narrow).whole[0] == narrow

    def test_a_class_that_a_mask_lacks_is_absent_in_its_draws(self) -> None:
        drawn = [layouts_of(discs(40, classes=2), 2).draw(np.random.default_rng(i)) for i in range(40)]
        assert {tuple(one.areas[0] > 0) for one in drawn} == {(True, False), (False, True)}


class TestVariants:
    def test_eight_turns_are_eight_masks(self) -> None:
        label = np.zeros((6, 6), np.uint8)
        label[0, 1] = 1
        found = [turned(label, turn) for turn in range(8)]
        assert len({mask.tobytes() for mask, _ in found}) == 8
        assert len({told.tobytes() for _, told in found}) == 8
        assert (found[0][0] == label).all()

    def test_a_lesion_is_moved_within_the_frame_and_one_at_the_border_stays(self) -> None:
        inside, over = disc(16, 16, 5).astype(np.uint8), disc(2, 16, 5).astype(np.uint8)
        random = np.random.default_rng(0)
        places = set()
        for _ in range(50):
            found = moved(inside, random)
            assert found.sum() == inside.sum()
            assert not layouts_of(found[None], 1).sides.any()
            places.add(found.tobytes())
            assert (moved(over, random) == over).all()
        assert len(places) > 30
        assert not moved(np.zeros((8, 8), np.uint8), random).any()


class TestNetwork:
    def test_components_stand_for_the_maps(self) -> None:
        settings = SETTINGS.model_copy(update={"components": 64})
        prior, data = begin(settings, discs(30), 1)
        assert data.components.shape == (30 * mask_prior.VARIANTS, 64)
        assert float(data.components.std(0)[0]) == pytest.approx(1, rel=0.05)
        maps = torch.from_numpy(to_maps(discs(30), 1, settings.side))
        assert torch.allclose(prior.decode(prior.encode(maps)), maps, atol=1e-3)

    def test_training_batches_do_not_hang_on_how_they_are_divided(self) -> None:
        _, data = begin(SETTINGS, discs(10), 1)
        whole = data.batch(3, range(4), SETTINGS, 1000)
        parts = [data.batch(3, rows, SETTINGS, 1000) for rows in (range(1), range(1, 4))]
        for name, values in whole.items():
            assert torch.equal(values, torch.cat([part[name] for part in parts]))
        assert not torch.equal(whole["noise"], data.batch(4, range(4), SETTINGS, 1000)["noise"])

    @pytest.mark.parametrize("classes", [1, 3])
    def test_every_number_of_classes_is_learned_and_drawn(self, classes: int) -> None:
        prior, data = begin(SETTINGS, discs(24, classes=classes), classes)
        losses = prior(**data.batch(0, range(4), SETTINGS, 1000))
        losses.total.backward()
        assert torch.isfinite(losses.total)
        gradients = [parameter.grad for parameter in prior.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        with torch.no_grad():
            maps = prior.eval().draw(prior.layouts.rows(slice(5)), [(i,) for i in range(5)], 0, 2)
        assert maps.shape == (5, classes, 8, 8)
        labels = to_labels(maps, SIZE)
        assert labels.shape == (5, SIZE, SIZE)
        assert labels.dtype == np.uint8
        assert labels.max() <= classes

    @torch.no_grad()
    def test_a_mask_does_not_hang_on_those_drawn_with_it(self) -> None:
        prior, _ = begin(SETTINGS, discs(24), 1)
        prior.eval()
        keys = [(i, 0) for i in range(6)]
        many, few = (prior.draw(prior.layouts.rows(slice(n)), keys[:n], 3, 3) for n in (6, 2))
        assert torch.allclose(many[:2], few, atol=1e-4)
        assert not torch.allclose(few, prior.draw(prior.layouts.rows(slice(2)), keys[:2], 4, 3), atol=1e-2)

    def test_what_is_told_tells_areas_apart(self) -> None:
        prior, data = begin(SETTINGS, discs(24), 1)
        other = as_they_are(prior, discs(6, seed=1))
        assert data.condition.shape[1] == other.condition.shape[1] == 2 + 7 + 3
        assert not torch.equal(other.condition[0], other.condition[1])
        assert not other.condition[:, -3:].any()

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        prior, _ = begin(SETTINGS, discs(24), 1)
        (tmp_path / "config.yaml").write_text(json.dumps(TINY))
        save_prior(prior, ["polyp"], "squash", tmp_path)
        loaded = load_prior(tmp_path)
        assert loaded.classes == ["polyp"]
        assert re.fullmatch("[0-9a-f]{16}", loaded.hash)
        before, after = draw_masks(prior.eval(), 3, 0, SIZE, 2), draw_masks(loaded.prior, 3, 0, SIZE, 2)
        assert torch.equal(before.maps, after.maps)

    def test_a_damaged_one_is_refused(self, tmp_path: Path) -> None:
        prior, _ = begin(SETTINGS, discs(24), 1)
        (tmp_path / "config.yaml").write_text(json.dumps(TINY))
        save_prior(prior, ["polyp"], "squash", tmp_path)
        note, weights = tmp_path / "prior/prior.json", tmp_path / "prior/model.safetensors"
        whole = json.loads(note.read_text())
        damages: tuple[dict[str, Any], ...] = (*({"areas": [[0.1]]}, {"areas": []}, {"sides": "no"}, {"parts": None}),)
        for damage in damages:
            note.write_text(json.dumps({**whole, **damage}))
            with pytest.raises(InputError, match=r"prior\.json"):
                load_prior(tmp_path)
        note.write_text(json.dumps(whole))
        (tmp_path / "config.yaml").write_text(json.dumps({**TINY, "train_masks": {**TINY["train_masks"], "width": 32}}))
        with pytest.raises(InputError, match=r"model\.safetensors: is not of the network that .*config\.yaml says"):
            load_prior(tmp_path)
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load_prior(tmp_path)


class TestCondition:
    def test_is_read(self) -> None:
        assert parse_condition("area=0.02..0.05") == Condition(0.02, 0.05)
        assert parse_condition("area=.02..1e-1") == Condition(0.02, 0.1)
        assert parse_condition(None) == Condition(0, 1)

    @pytest.mark.parametrize(
        "text", ["area", "area=0.1", "area=0.2..0.1", "area=0.1..0.1", "area=0..2", "size=0.1..0.2", "area=a..b", ""]
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(InputError, match=r"expected area=LOW\.\.HIGH"):
            parse_condition(text)

    @pytest.mark.usefixtures("perfect")
    def test_every_mask_lies_in_the_range(self) -> None:
        prior, _ = begin(SETTINGS, discs(30), 1)
        condition = Condition(0.06, 0.1)
        labels = draw_masks(prior, 20, 0, 96, 2, condition).labels(slice(None), 96)
        areas = (labels > 0).mean((1, 2))
        assert ((areas >= 0.06) & (areas <= 0.1)).all()
        assert len(set(areas)) > 5

    def test_a_range_that_no_training_mask_has_is_refused_and_the_one_seen_named(self) -> None:
        prior, _ = begin(SETTINGS, discs(30), 1)
        low, high = prior.layouts.whole.min(), prior.layouts.whole.max()
        with pytest.raises(InputError, match=f"theirs are {low:.4f} to {high:.4f}"):
            draw_masks(prior, 2, 0, SIZE, 2, Condition(0.9, 1.0))

    def test_a_prior_that_cannot_is_no_endless_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []

        def never(prior: MaskPrior, layouts: Layouts, *_: Any) -> torch.Tensor:
            calls.append(len(layouts))
            return torch.full((len(layouts), 1, prior.side, prior.side), -1.0)

        monkeypatch.setattr(MaskPrior, "draw", never)
        prior, _ = begin(SETTINGS, discs(30), 1)
        with pytest.raises(InputError, match="3 of 3 masks are still without a lesion after"):
            draw_masks(prior, 3, 0, SIZE, 2)
        with pytest.raises(InputError, match=r"--condition area=0\.05\.\.0\.1: 3 of 3 masks are still outside"):
            draw_masks(prior, 3, 0, SIZE, 2, Condition(0.05, 0.1))
        assert calls == [3] * 2 * TRIES


@pytest.fixture(scope="module")
def tiny_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = discs(60)
    labels[[7, 30]] = 0
    return mask_folder(tmp_path_factory.mktemp("masks") / "masks", labels)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_masks: Path) -> Path:
    out = tmp_path_factory.mktemp("prior") / "run"
    train_masks(tiny_masks, out, build_config(TINY, "tests"), device="cpu")
    return out


class TestTrainMasks:
    def test_what_it_leaves(self, learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
        result = json.loads((learned / "summary.json").read_text())
        assert result["masks"] + result["held_out"] + result["empty"] in (59, 60)  # held-out ones may be empty too
        assert result["empty"] in (1, 2)
        assert result["steps"] == 6
        assert [verdict["question"] for verdict in result["verdicts"]] == [
            "Are the drawn masks like real ones, and new?",
            "Was training long enough?",
        ]
        assert "train_masks.sample_every" in result["verdicts"][1]["because"]
        assert len(DataFolder(learned / "drawn").masks()) == 6
        page = (learned / "report.html").read_text()
        assert "Are the drawn masks like real ones" in page
        assert (learned / "samples/step-000006.png").exists()
        rows = [json.loads(line) for line in (learned / "log.jsonl").read_text().splitlines()]
        assert {"seen", "held_out"} <= {name for row in rows for name in row}
        shown = render(result)
        assert "empty" in shown
        assert f"--masks {learned}" in shown

    def test_status(self, learned: Path) -> None:
        found = status(learned)
        assert (found["command"], found["state"], found["step"], found["of"]) == ("train-masks", "finished", 6, 6)

    def test_interrupted_and_gone_on_with_it_is_the_same(
        self, learned: Path, tiny_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, out = build_config(TINY, "tests"), tmp_path / "run"
        forward, calls = MaskPrior.forward, []

        def interrupting(*arguments: Any, **more: Any) -> Any:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return forward(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(MaskPrior, "forward", interrupting)
            with pytest.raises(KeyboardInterrupt):
                train_masks(tiny_masks, out, config, device="cpu")
        assert not (out / "prior").exists()
        assert status(out)["state"] == "stopped"
        with pytest.raises(InputError, match="add --resume"):
            train_masks(tiny_masks, out, config, device="cpu")
        with pytest.raises(InputError, match=r"train_masks\.width"):
            train_masks(tiny_masks, out, update(config, "train_masks", width=32), resume=True, device="cpu")
        train_masks(tiny_masks, out, config, resume=True, device="cpu")
        for name in ("prior/model.safetensors", "prior/prior.json", "drawn/00003.png"):
            assert (out / name).read_bytes() == (learned / name).read_bytes()

    def test_held_out_masks_are_the_folders_others(self, tmp_path: Path, tiny_masks: Path) -> None:
        config = build_config({**TINY, "data": {"limit": 20}}, "tests")
        result = train_masks(tiny_masks, tmp_path / "run", config, device="cpu")
        assert result["masks"] + result["empty"] == 20
        assert result["held_out"] in (38, 39, 40)

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (discs(5), "5 masks with a lesion to learn from; a prior takes at least 8"),
            (discs(1).repeat(12, 0), "its 12 masks are all the same"),
            (np.zeros((12, SIZE, SIZE), np.uint8), "0 masks with a lesion"),
        ],
    )
    def test_bad_masks_are_refused_in_a_line(self, labels: np.ndarray, words: str, tmp_path: Path) -> None:
        folder = mask_folder(tmp_path / "masks", labels)
        with pytest.raises(InputError, match=words) as refused:
            train_masks(folder, tmp_path / "run", build_config(TINY, "tests"), device="cpu")
        assert "\n" not in str(refused.value)
        assert str(folder) in str(refused.value)


Draw = Callable[..., dict[str, Any]]


@pytest.mark.usefixtures("perfect")
class TestSampleFromPrior:
    def test_pairs_say_which_prior_drew_their_masks(self, run: Path, learned: Path, tmp_path: Path) -> None:
        result = sample(run, learned, tmp_path / "new", count=4, per_mask=2, condition="area=0.06..0.12", device="cpu")
        assert result["pairs"] == 8
        hash_ = load_prior(learned).hash
        pairs = DataFolder(tmp_path / "new").pairs()
        assert pairs[0].name == "drawn-00000-00"
        for pair in pairs:
            number = int(pair.name.split("-")[1])
            assert 0.06 <= pair.mask.read().mean() <= 0.12
            assert pair.extra["source_mask"] == f"prior {hash_}, seed 0, mask {number}"
            told = pair.extra["mask_transform"]
            assert told["recipe"] == "prior"
            assert (told["prior"], told["seed"], told["number"]) == (hash_, 0, number)
            assert told["condition"] == "area=0.06..0.12"
            assert pair.extra["synthetic"] is True
        again = sample(
            run, learned, tmp_path / "new", count=4, per_mask=2, condition="area=0.06..0.12", resume=True, device="cpu"
        )
        assert again["drawn"] == 0
        with pytest.raises(InputError, match="--count 5"):
            sample(run, learned, tmp_path / "new", count=5, per_mask=2, resume=True, device="cpu")

    def test_an_interrupted_folder_is_gone_on_with(self, run: Path, learned: Path, tmp_path: Path) -> None:
        sample(run, learned, tmp_path / "whole", count=5, device="cpu")
        shutil.copytree(tmp_path / "whole", tmp_path / "part")
        (tmp_path / "part/images/drawn-00004.png").unlink()
        assert sample(run, learned, tmp_path / "part", count=5, resume=True, device="cpu")["drawn"] == 1
        for name in ("images/drawn-00004.png", "masks/drawn-00004.png", "pairs.jsonl"):
            assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_as_many_as_it_learned_from_by_default(self, run: Path, learned: Path, tmp_path: Path) -> None:
        masks = json.loads((learned / "summary.json").read_text())["masks"]
        assert sample(run, learned, tmp_path / "new", device="cpu")["pairs"] == masks

    def test_what_does_not_go_together_is_refused(
        self, run: Path, learned: Path, pairs: Path, tmp_path: Path, tiny: Config
    ) -> None:
        out = tmp_path / "new"
        unfinished = tmp_path / "unfinished"
        shutil.copytree(learned, unfinished)
        shutil.rmtree(unfinished / "prior")
        padded = tmp_path / "padded"
        shutil.copytree(learned, padded)
        (padded / "config.yaml").write_text((padded / "config.yaml").read_text().replace("fit: squash", "fit: pad"))
        for arguments, words in (
            ((pairs, {"count": 3}), "--count: is asked of a prior"),
            ((pairs, {"condition": "area=0.1..0.2"}), "--condition: is asked of a prior"),
            ((learned, {"count": 0}), "--count 0"),
            ((learned, {"condition": "small"}), "--condition small: expected area="),
            ((learned, {"condition": "area=0.9..1"}), "no training mask of this prior has such an area"),
            ((learned, {"random_masks": "flip-scale-shift"}), "whose masks are new already"),
            ((learned, {"config": update(tiny, "sample", aspect="source")}), "no shape but square"),
            ((unfinished, {}), "run `train-masks` again with --resume"),
            ((padded, {}), "data.fit = pad"),
        ):
            folder, options = arguments
            with pytest.raises(InputError, match=re.escape(words)) as refused:
                sample(run, folder, out, device="cpu", **options)
            assert "\n" not in str(refused.value)
            assert not out.exists()
