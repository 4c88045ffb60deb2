"""The settings that say how files are read reach every command, and what was made before there were any keeps its
keys."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_coding import Scene, build, rimmed, white

from siamese_diffusion.config import Config, build_config, update
from siamese_diffusion.data.decoding import plain_settings
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.diffusion.pretrain import pretrain
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.files import hash_json
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.studies.stages import FileHashes, settings_of

RIM = r"masks/00\.png: .*a rim of 255"


@pytest.fixture
def rims(tmp_path: Path) -> Path:
    """Masks that need `data.void=255`."""
    build(tmp_path / "rims", rimmed, count=8)
    return tmp_path / "rims"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    build(tmp_path / "plain", lambda s: white(s.large), count=8)
    return tmp_path / "plain"


def small(**data: Any) -> Config:
    segmenting = {"resolution": 32, "steps": 1, "batch_size": 2, "warmup": 0, "sample_every": 1, "checkpoint_every": 1}
    return build_config({"data": {"resolution": 32, "split": None, **data}, "segment": segmenting}, "tests")


def test_train_reads_as_the_settings_say_and_notes_it(tmp_path: Path, rims: Path, backbone: Path, tiny: Config) -> None:
    with pytest.raises(InputError, match=RIM):
        train(rims, tmp_path / "run", str(backbone), config=tiny, device="cpu")
    assert not (tmp_path / "run/config.yaml").exists()
    config = update(update(tiny, "data", void=[255]), "train", steps=1)
    train(rims, tmp_path / "run", str(backbone), config=config, device="cpu")
    assert '"void"' in (tmp_path / "run/inputs.json").read_text()
    changed = update(config, "data", foreground=[1])
    with pytest.raises(InputError, match=r"--resume data\.foreground"):
        train(rims, tmp_path / "run", str(backbone), config=changed, resume=True, device="cpu")


@pytest.mark.parametrize(("fill", "word"), [(0, "empty"), (255, "full")])
def test_train_and_segment_refuse_a_set_with_nothing_to_learn(
    tmp_path: Path, backbone: Path, tiny: Config, fill: int, word: str
) -> None:
    build(tmp_path / "data", lambda s: np.full((64, 64), fill, np.uint8))
    line = rf"data: each of its \d+ masks is {word} at 32 x 32 pixels; `siamese-diffusion check .*data`"
    alone = r"data: none of the \d+ pairs that pick the best step has a lesion at 32 pixels"  # told first, where empty
    with pytest.raises(InputError, match=line):
        train(tmp_path / "data", tmp_path / "run", str(backbone), config=tiny, device="cpu")
    with pytest.raises(InputError, match=f"{line}|{alone}"):
        segment(tmp_path / "data", tmp_path / "network", [], config=small(), device="cpu")


def test_pretrain_reads_images_as_the_settings_say(tmp_path: Path, tiny: Config) -> None:
    def hounsfield(each: Scene) -> np.ndarray[Any, Any]:
        return each.image[..., 1].astype(np.float32) * 10 - 1000

    build(
        tmp_path / "ct", rimmed, image=hounsfield, image_suffix="tif", count=8
    )  # masks that are refused do not matter
    with pytest.raises(InputError, match=r"data\.window=LEVEL,WIDTH"):
        pretrain(tmp_path / "ct", tmp_path / "run", tiny, device="cpu")
    windowed = update(update(tiny, "data", window=[40, 400]), "pretrain", steps=1)
    assert pretrain(tmp_path / "ct", tmp_path / "run", windowed, device="cpu")["images"] == 8


def test_segment_refuses_what_cannot_be_read_before_it_trains(tmp_path: Path, rims: Path, plain: Path) -> None:
    for i, path in enumerate(sorted((rims / "images").iterdir())):  # else it is refused for the images it shares
        Image.fromarray(np.asarray(Image.open(path)) ^ np.uint8(1 + i)).save(path)
    for folders in ({"train": rims, "test": []}, {"train": plain, "test": [rims]}):
        with pytest.raises(InputError, match=RIM):
            segment(**folders, out=tmp_path / "out", config=small(), device="cpu")  # type: ignore[arg-type]
        assert not (tmp_path / "out/config.yaml").exists()
    result = segment(rims, tmp_path / "out", [], config=small(void=[255]), device="cpu")
    assert result["train"]["real"] == 6


def test_evaluate_refuses_what_cannot_be_read_before_it_trains_a_judge(tmp_path: Path, rims: Path, plain: Path) -> None:
    with pytest.raises(InputError, match=RIM):
        evaluate(rims, plain, tmp_path / "out", small(), device="cpu")
    assert not (tmp_path / "out/judge").exists()


def test_sample_reads_masks_as_the_settings_say(tmp_path: Path, rims: Path, run: Path, tiny: Config) -> None:
    with pytest.raises(InputError, match=RIM):
        sample(run, rims, tmp_path / "made", config=tiny, device="cpu")
    sample(run, rims, tmp_path / "drawn", config=update(tiny, "data", void=[255]), device="cpu")
    wanted = DataFolder(rims, settings=small(void=[255]).data).pairs()
    for made, source in zip(DataFolder(tmp_path / "drawn").pairs(), wanted, strict=True):
        assert np.array_equal(made.mask.read(), source.mask.squared(32))
    # and what it wrote is black and white, whatever the settings say of the folder that it came from
    made_again = DataFolder(tmp_path / "drawn", settings=small(foreground=["red"], void=[255]).data)
    assert made_again.pairs()[0].mask.read().any()


def test_pairs_can_have_the_shape_of_their_source(tmp_path: Path, run: Path, tiny: Config) -> None:
    scenes = build(tmp_path / "wide", lambda s: white(s.large), size=(48, 80), count=3)
    config = update(tiny, "sample", aspect="source")
    sample(run, tmp_path / "wide", tmp_path / "made", config=config, device="cpu")
    for pair, each in zip(DataFolder(tmp_path / "made").pairs(), scenes, strict=True):
        image, mask = pair.read()
        assert image.shape == (19, 32, 3)
        assert pair.extra["aspect"] == "source"
        assert abs(mask.mean() - each.large.mean()) < 0.03
    with pytest.raises(InputError, match=r"--resume sample\.aspect = square"):
        sample(run, tmp_path / "wide", tmp_path / "made", config=tiny, resume=True, device="cpu")


def test_keys_of_what_was_done_before_stay(plain: Path, rims: Path) -> None:
    contents = FileHashes()
    pairs = DataFolder(plain, settings=Config().data).pairs()
    images, masks = contents.files([p.image.path for p in pairs]), contents.files([p.mask.path for p in pairs])
    rows = [[pair.name, image, mask, pair.prompt] for pair, image, mask in zip(pairs, images, masks, strict=True)]
    assert contents.pairs(pairs) == hash_json(rows)
    assert contents.masks(pairs) == hash_json([[pair.name, mask] for pair, mask in zip(pairs, masks, strict=True)])
    of_images = [[pair.image.path.name, image] for pair, image in zip(pairs, images, strict=True)]
    assert contents.images([pair.image for pair in pairs]) == hash_json(of_images)
    padded = DataFolder(plain, settings=small(fit="pad").data).pairs()
    assert contents.pairs(padded) != contents.pairs(pairs)
    kept = [DataFolder(rims, settings=small(void=[255], outline=way).data).pairs() for way in ("keep", "fill")]
    assert contents.pairs(kept[0]) != contents.pairs(kept[1])
    assert not {"fit", "void", "window", "mask_coding"} & settings_of(Config(), "data").keys()
    assert settings_of(small(fit="pad"), "data")["fit"] == "pad"
    assert not {"patience", "lesion_weight"} & settings_of(Config(), "segment").keys()
    weighed = settings_of(update(Config(), "segment", patience=3, lesion_weight=4.0), "segment")
    assert (weighed["patience"], weighed["lesion_weight"]) == (3, 4.0)
    later = {"backbone": {"first_stage", "align", "zero_snr"}, "pretrain": {"min_snr"}, "method": {"hint_dropout"}}
    for section, names in later.items():
        assert not names & settings_of(Config(), section).keys()
    assert settings_of(update(Config(), "backbone", align=0.5), "backbone")["align"] == 0.5
    assert settings_of(update(Config(), "pretrain", min_snr=5), "pretrain")["min_snr"] == 5
    assert settings_of(update(Config(), "method", hint_dropout=0.1), "method")["hint_dropout"] == 0.1
    assert "aspect" not in settings_of(Config(), "sample")
    assert settings_of(update(Config(), "sample", aspect="source"), "sample")["aspect"] == "source"


def test_folders_of_our_own_keep_the_fit_alone() -> None:
    settings = plain_settings(small(fit="pad", void=[255], invert=True, window=[40, 400]).data)
    assert (settings.fit, settings.void, settings.invert, settings.window) == ("pad", (), False, None)


@pytest.mark.parametrize(("settings", "status"), [((), 2), (("--set", "data.void=255"), 0)])
def test_the_status_of_check_says_whether_training_would_be_refused(
    rims: Path, settings: tuple[str, ...], status: int
) -> None:
    command = [sys.executable, "-m", "siamese_diffusion", "check", str(rims), *settings]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    assert ("error: mask values" in result.stdout) == (status == 2)
    assert "Traceback" not in result.stderr
