"""nnU-Net's raw data sets: what is written, which cases validate, and our figures of what nnU-Net predicts."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DiscPairs
from PIL import Image

from siamese_diffusion.config import load_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation.metrics import score
from siamese_diffusion.segmentation.nnunet import export_nnunet
from siamese_diffusion.segmentation.predict import predict

REAL, TWIN = "Dataset501_polyps", "Dataset502_polypsSynthetic"
SPLITS = {"train": [f"{i:03d}" for i in range(8)], "val": ["008", "009"], "test": ["010", "011"]}


def synthetic(folder: Path, sources: list[str | None], side: int = 24) -> Path:
    """Pairs with the mask each came from."""
    rows = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i, source in enumerate(sources):
        mask = np.zeros((side, side), np.uint8)
        mask[4:12, 6:14] = 255
        Image.fromarray(np.full((side, side, 3), 10 * i, np.uint8)).save(folder / f"images/s{i}.png")
        Image.fromarray(mask).save(folder / f"masks/s{i}.png")
        row = {"image": f"images/s{i}.png", "mask": f"masks/s{i}.png", "synthetic": True}
        rows.append(row if source is None else {**row, "source_mask": source})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "pairs.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def splits(out: Path, dataset: str) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = json.loads(
        (out / "nnUNet_preprocessed" / dataset / "splits_final.json").read_text()
    )
    return found


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_twin_data_sets(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, out = disc_pairs(splits=SPLITS), tmp_path / "out"
    made = synthetic(tmp_path / "made", ["003", "009", None])
    result = export_nnunet(data, out, "polyps", [made])
    assert result["datasets"] == [REAL, TWIN]
    assert [result[key] for key in ("real", "test", "synthetic", "folds")] == [10, 2, 3, 1]
    pairs = {pair.name: pair for pair in DataFolder(data).pairs()}
    rows = table(out)
    for dataset, count in ((REAL, 10), (TWIN, 13)):
        raw = out / "nnUNet_raw" / dataset
        note: dict[str, Any] = json.loads((raw / "dataset.json").read_text())
        assert note["channel_names"] == {"0": "R", "1": "G", "2": "B"}
        assert note["labels"] == {"background": 0, "polyp": 1}
        assert (note["numTraining"], note["file_ending"]) == (count, ".png")
        assert note["overwrite_image_reader_writer"] == "NaturalImage2DIO"
        cases = {case for case, row in rows.items() if row["kind"] in ("real", *["synthetic"] * (dataset == TWIN))}
        assert files(raw / "labelsTr") == {f"{case}.png" for case in cases}
        assert files(raw / "imagesTr") == {f"{case}_0000.png" for case in cases}
        assert files(raw / "imagesTs") == {"test_0001_0000.png", "test_0002_0000.png"}
        for case in [*cases, "test_0001"]:
            part = "Ts" if case.startswith("test") else "Tr"
            image = Image.open(raw / f"images{part}" / f"{case}_0000.png")
            label = Image.open(raw / f"labels{part}" / f"{case}.png")
            assert (image.mode, label.mode) == ("RGB", "L")
            assert image.size == label.size == (int(rows[case]["width"]), int(rows[case]["height"]))
            assert set(np.unique(np.asarray(label))) <= {0, 1}
            if rows[case]["kind"] != "synthetic":
                pixels, mask = pairs[rows[case]["name"]].read()
                assert np.array_equal(np.asarray(image), pixels)
                assert np.array_equal(np.asarray(label).astype(bool), mask)


def test_only_real_cases_validate_and_no_synthetic_one_gives_them_away(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, out = disc_pairs(splits=SPLITS), tmp_path / "out"
    export_nnunet(data, out, "polyps", [synthetic(tmp_path / "made", ["003", "009", None])])
    names = {case: row["name"] for case, row in table(out).items()}
    (real,), (twin,) = splits(out, REAL), splits(out, TWIN)
    assert {names[case] for case in real["val"]} == {"008", "009"}
    assert {names[case] for case in real["train"]} == set(SPLITS["train"])
    assert twin["val"] == real["val"]
    assert twin["train"] == [*real["train"], "synthetic_0001", "synthetic_0003"]  # the mask of the second validates


def test_folds_keep_patients_together(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, out = disc_pairs(count=12), tmp_path / "out"
    rows = [
        {"image": f"images/{i:03d}.png", "mask": f"masks/{i:03d}.png", "group": f"patient {i // 2}"} for i in range(12)
    ]
    (data / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    export_nnunet(data, out, "polyps", [synthetic(tmp_path / "made", ["003", "007"])], folds=3)
    found, twin = splits(out, REAL), splits(out, TWIN)
    groups = {case: row["group"] for case, row in table(out).items() if row["kind"] == "real"}
    assert sorted(case for fold in found for case in fold["val"]) == sorted(groups)
    for fold, with_made in zip(found, twin, strict=True):
        held = {groups[case] for case in fold["val"]}
        assert len(fold["val"]) == 4
        assert not held & {groups[case] for case in fold["train"]}
        assert with_made["val"] == fold["val"]
        left = {"patient 1": "synthetic_0001", "patient 3": "synthetic_0002"}
        assert {case for case in with_made["train"] if case.startswith("synthetic")} == {
            case for group, case in left.items() if group not in held
        }
    with pytest.raises(InputError, match=r"--folds 7: must be 1 to 6"):
        export_nnunet(data, tmp_path / "more", "polyps", folds=7)


def test_synthetic_pairs_take_the_size_of_the_pair_their_mask_came_from(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part in ("images", "masks"):
        (data / part).mkdir(parents=True)
    for name, size in (("a", (60, 40)), *((name, (48, 48)) for name in "bcdef")):
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(data / f"images/{name}.png")
        mask = np.zeros(size[::-1], np.uint8)
        mask[5:9, 5:9] = 255
        Image.fromarray(mask).save(data / f"masks/{name}.png")
    made = synthetic(tmp_path / "made", ["a", None])
    for fit, top in (("squash", 4 * 40 / 24), ("pad", 0)):
        out = tmp_path / fit
        export_nnunet(data, out, "x", [made], folds=1, config=load_config(None, [f"data.fit={fit}"]))
        raw = out / "nnUNet_raw/Dataset502_xSynthetic/labelsTr"
        label = np.asarray(Image.open(raw / "synthetic_0001.png"))
        assert label.shape == (40, 60)
        rows = np.flatnonzero(label.any(1))
        assert abs(rows[0] - top) <= 1  # of the 24 rows, padding takes the first 4
        assert Image.open(raw / "synthetic_0002.png").size == (48, 48)


def test_a_call_that_was_cut_short_goes_on(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamese_diffusion.segmentation import nnunet as module

    data, out = disc_pairs(splits=SPLITS), tmp_path / "out"
    write = module._write_case

    def dies(raw: Path, homes: Any, case: Any, fit: Any) -> None:
        if case.name == "real_0004":
            raise InputError("killed")
        write(raw, homes, case, fit)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_case", dies)
        with pytest.raises(InputError, match="killed"):
            export_nnunet(data, out, "polyps")
    assert not (out / "pairs.csv").exists()
    with pytest.raises(InputError, match=r"--name polyps, not other"):
        export_nnunet(data, out, "other")
    assert export_nnunet(data, out, "polyps")["real"] == 10
    with pytest.raises(InputError, match="already holds"):
        export_nnunet(data, out, "polyps")


def test_our_figures_of_its_predictions(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, out = disc_pairs(splits=SPLITS), tmp_path / "out"
    export_nnunet(data, out, "polyps")
    found = out / "predictions"
    found.mkdir()
    pairs = {pair.name: pair for pair in DataFolder(data).pairs()}
    parts = []
    for i, (case, name) in enumerate((("test_0001", "010"), ("test_0002", "011"))):
        mask = pairs[name].mask.read()
        guess = np.roll(mask, 2 + i, 0)
        Image.fromarray(guess.astype(np.uint8)).save(found / f"{case}.png")
        parts.append(score(torch.from_numpy(guess)[None].float(), torch.from_numpy(mask)[None], field=True).means())
    result = predict(None, None, tmp_path / "scores", masks=data, from_nnunet=found)
    assert result["images"] == 2
    for figure in ("mDice", "mIoU", "meanDic", "Sm"):
        assert result["scores"][figure] == pytest.approx(np.mean([part[figure] for part in parts]), abs=1e-6)
    assert json.loads((tmp_path / "scores/metrics.json").read_text())["scores"] == result["scores"]
    assert (tmp_path / "scores/scores.csv").read_text().splitlines()[1].startswith("010,")
    assert Image.open(tmp_path / "scores/masks/011.png").mode == "P"


def test_predictions_that_are_not_those_of_the_cases_are_refused(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, out = disc_pairs(splits=SPLITS), tmp_path / "out"
    export_nnunet(data, out, "polyps")
    found, scores = tmp_path / "predictions", tmp_path / "scores"
    found.mkdir()

    def refused(words: str, pairs: Path | None = out / "pairs.csv", **others: Any) -> None:
        with pytest.raises(InputError, match=words):
            predict(None, None, scores, **{"masks": data, "from_nnunet": found, "pairs": pairs, **others})

    refused("no pairs.csv there or above", None)
    refused("holds no CASE.png")
    refused("takes --masks", masks=None)
    label = np.zeros((8, 8), np.uint8)
    Image.fromarray(label).save(found / "test_0001.png")
    refused("test_0002 of .*pairs.csv was not predicted")
    Image.fromarray(label).save(found / "test_0002.png")
    refused(r"test_0001\.png: is 8 x 8, but its mask")
    Image.fromarray(label).save(found / "polyp.png")
    refused(r"polyp\.png: polyp is no case of")
    with pytest.raises(InputError, match="give --network and --images"):
        predict(None, None, scores)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a b"}, "--name a b: expected letters"),
        ({"name": "../x"}, "--name"),
        ({"name": "x", "id": 0}, "--id 0: must be 1 to 998"),
        ({"name": "x", "folds": 0}, "--folds 0"),
    ],
)
def test_wrong_input_is_one_line(options: dict[str, Any], words: str, disc_pairs: DiscPairs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        export_nnunet(disc_pairs(splits=SPLITS), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_pair_drawn_into_a_validation_image_is_not_learned_from(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    """Most of its pixels are the validation image's, whatever mask it has."""
    data = disc_pairs(splits=SPLITS)
    made = synthetic(tmp_path / "made", ["003", "003"])
    rows = [json.loads(line) for line in (made / "pairs.jsonl").read_text().splitlines()]
    rows[0] |= {"background": "009", "background_sha256": "x"}
    rows[1] |= {"background": "004", "background_sha256": "y"}
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    export_nnunet(data, tmp_path / "out", "polyps", [made])
    by_pair = {row["name"]: case for case, row in table(tmp_path / "out").items()}
    (fold,) = splits(tmp_path / "out", TWIN)
    assert by_pair["s1"] in fold["train"]
    assert by_pair["s0"] not in fold["train"]

    rows[0]["background_sha256"] = hash_files([data / "images/010.png"])
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"a lesion was drawn into .*010\.png, which is in test set test"):
        export_nnunet(data, tmp_path / "again", "polyps", [made])
