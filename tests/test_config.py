from pathlib import Path

import pytest

from siamese_diffusion.config import (
    Config,
    SegmentConfig,
    TrainConfig,
    build_config,
    dump_config,
    load_config,
    merge,
    preset_names,
    update,
)
from siamese_diffusion.errors import InputError
from siamese_diffusion.network_recipes import NETWORK_RECIPES


def test_dump_reads_back(tmp_path: Path) -> None:
    config = load_config(None, ["train.steps=7", "data.flip=none", "backbone.channels=[16, 32]"])
    assert config.train.steps == 7
    assert config.backbone.channels == (16, 32)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_a_bare_no_is_no_precision(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {precision: bf16}\npretrain: {precision: no}\n")
    config = load_config(tmp_path / "mine.yaml", ["train.precision=no"])
    assert (config.train.precision, config.pretrain.precision) == ("fp32", "fp32")
    with pytest.raises(InputError, match=r"pretrain\.precision = True"):
        load_config(None, ["pretrain.precision=yes"])


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid(name: str) -> None:
    assert isinstance(load_config(name), Config)


def test_the_papers_settings() -> None:
    config = load_config("sd15-paper")
    train = config.train
    assert (config.data.resolution, config.data.prompt_dropout) == (384, 0.05)
    assert (train.steps, train.batch_size, train.learning_rate, train.ema) == (3000, 48, 1e-5, 0)
    assert (train.betas, train.weight_decay, train.schedule) == ((0.9, 0.999), 0.01, "constant")
    assert (config.sample.scheduler, config.sample.steps, config.sample.guidance) == ("ddim", 50, 9)
    assert config.sample.mask_guidance == 1
    assert (config.method.augmentation_start, config.method.augmentation_timesteps) == (1 / 3, 200)


def test_later_settings_win(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {steps: 5, batch_size: 2}\n")
    config = load_config(tmp_path / "mine.yaml", ["train.steps=9"])
    assert (config.train.steps, config.train.batch_size) == (9, 2)
    assert config.train.learning_rate == Config().train.learning_rate
    assert update(config, "train", steps=11, seed=None).train.steps == 11


@pytest.mark.parametrize(
    ("text", "override", "words"),
    [
        ("train: {stesp: 3}", "", "unknown setting train.stesp .did you mean train.steps"),
        ("trian: {steps: 3}", "", "unknown setting trian"),
        ("train: {steps: many}", "", "train.steps = 'many'"),
        ("train: [1]", "", "train = "),
        ("train: [1]", "train.steps=3", "section 'train' must be a mapping"),
        ("train:", "train.steps=3", "section 'train' must be a mapping"),
        ("- 1", "", "expected sections"),
        ("train: {steps: 3", "", "not valid YAML at line"),
        ("", "train.steps", "--set train.steps: expected section.key=value"),
        ("", "train.steps=[1", "--set train.steps=.1: not valid YAML at line 1"),
        ("", "trian.steps=3", "unknown setting trian .did you mean train"),
        ("", "train.steps=0", "train.steps = 0"),
        ("", "data.flip=sideways", "data.flip = 'sideways'"),
        ("train.steps: 3\ntrain: {steps: 4}", "", "train.steps is given twice"),
        ("train: {steps: 4}\ntrain: {batch_size: 3}", "", "line 2: the key 'train' is there twice"),
        ("train:\n\tsteps: 4", "", "line 2: it has a tab"),
        ("train:\n  steps: 4\n\tbatch_size: 4", "", "line 3: it has a tab"),
        ("train.stesp: 4", "", "unknown setting train.stesp .did you mean train.steps"),
        ("method.name: siames", "", "did you mean siamese"),
        ("", "segment.network=sanett", "no such network.*did you mean sanet"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, override: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_config(tmp_path / "mine.yaml", [override] if override else [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "override", "blamed"),
    [
        ("train: {steps: 4}", "train.stesp=3", "--set: "),
        ("train: {stesp: 4}", "train.steps=3", "{file}: "),
        ("train: {steps: 4}", "train.steps=0", "--set: "),
        ("train: {steps: 0}", "train.batch_size=3", "{file}: "),
        ("data: {window: '40,400', image_range: '0,9'}", "data.limit=3", "{file}: "),
        ("data: {window: '40,400'}", "data.image_range=0,9", "--set: "),
    ],
)
def test_the_line_names_what_was_wrong(tmp_path: Path, text: str, override: str, blamed: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "mine.yaml", [override])
    assert str(caught.value).startswith(blamed.format(file=tmp_path / "mine.yaml"))


def test_a_later_value_mends_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train.steps: 0")
    assert load_config(tmp_path / "mine.yaml", ["train.steps=3"]).train.steps == 3


def test_dotted_keys_are_sections(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train.steps: 5\ntrain: {batch_size: 2}\ndata.flip: none\n")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.train.steps, config.train.batch_size, config.data.flip) == (5, 2, "none")
    assert load_config({"train.steps": 5, "train": {"batch_size": 2}, "data.flip": "none"}) == config
    assert load_config(config) is config
    assert load_config(config, {"train.steps": 6}).train.steps == 6


@pytest.mark.parametrize(
    ("section", "entries", "words"),
    [
        ("method", {"name": "siames"}, "--method siames: .*did you mean siamese"),
        ("sample", {"mask_guidance": -1.0}, "--mask-guidance -1.0: "),
        ("segment", {"network": "sanett"}, "--network sanett: no such network"),
    ],
)
def test_a_wrong_option_is_called_by_its_name(section: str, entries: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=f"^{words}"):
        update(Config(), section, **entries)


def test_unknown_preset_lists_them() -> None:
    with pytest.raises(InputError, match="sd15-paper"):
        load_config("papers")


def test_whole_config_is_described() -> None:
    assert build_config({}, "here") == Config()


def test_a_change_leaves_the_rest_as_it_is() -> None:
    """A section made by hand has the defaults of its class, not those of the whole."""
    config = Config(train=TrainConfig(steps=4), segment=SegmentConfig(steps=600, network="sanet"))
    assert config.train.learning_rate != Config().train.learning_rate
    changed = update(config, "data", limit=3)
    assert changed.model_dump(exclude={"data"}) == config.model_dump(exclude={"data"})
    assert changed.data.limit == 3


def test_layers_are_merged_key_by_key_and_later_wins() -> None:
    low, high = {"a": {"x": 1, "y": 2}, "b": {"x": 1}}, {"a": {"y": 3}, "b": None, "c": {"z": 4}}
    assert merge(low, high) == {"a": {"x": 1, "y": 3}, "b": None, "c": {"z": 4}}
    assert low == {"a": {"x": 1, "y": 2}, "b": {"x": 1}}
    assert merge() == {}


class TestNetworks:
    """What was set stays when the network changes; what came from its recipe goes with it."""

    def test_even_where_the_value_set_is_a_default_or_the_recipes(self) -> None:
        config = load_config(None, ["segment.network=sanet", f"segment.steps={NETWORK_RECIPES['sanet']['steps']}"])
        assert update(config, "segment", network="ctnet").segment.steps == NETWORK_RECIPES["sanet"]["steps"]
        config = load_config(None, [f"segment.steps={Config().segment.steps}"])
        assert update(config, "segment", network="ctnet").segment.steps == Config().segment.steps

    def test_over_other_changes_and_copies(self, tmp_path: Path) -> None:
        copy = Config().model_copy(update={"segment": SegmentConfig().model_copy(update={"warmup": 7})})
        changed = update(update(copy, "train", steps=3), "segment", network="sanet")
        assert (changed.segment.warmup, changed.segment.loss, changed.train.steps) == (7, "sanet", 3)
        back = update(changed, "segment", network="unet")
        assert (back.segment, back.segment.loss) == (SegmentConfig(warmup=7), "bce-dice")
        (tmp_path / "config.yaml").write_text(dump_config(changed))  # a run's settings are all set
        again = update(load_config(tmp_path / "config.yaml"), "segment", network="unet").segment
        assert (again.network, again.loss) == ("unet", "sanet")

    def test_equal_settings_are_equal_however_they_were_given(self) -> None:
        recipe = SegmentConfig(network="sanet")
        assert recipe == SegmentConfig.model_validate(recipe.model_dump())
        assert hash(recipe) == hash(SegmentConfig.model_validate(recipe.model_dump()))
        assert recipe != SegmentConfig(network="sanet", seed=1)
        assert recipe.given() == {"network": "sanet"}
