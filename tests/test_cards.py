"""The cards of models and of drawn pairs, and the folder as Hugging Face `datasets` reads it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from test_hub import METRICS

from siamese_diffusion import sample
from siamese_diffusion.cards import MARK, data_card, model_card, note_evaluation, write_data_card, write_model_card
from siamese_diffusion.config import dump_config, load_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.carded import hand_on, note_in_cards, require_drawn_by


@pytest.fixture(scope="module")
def drawn(run: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "new"
    sample(run, pairs, folder, random_masks="flip-scale-shift", device="cpu")
    return folder


def parts(card: str) -> tuple[dict[str, Any], str]:
    """The front matter, and the text."""
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


class TestModel:
    def test_it_says_what_the_manifests_say(self, run: Path, pairs: Path) -> None:
        front, text = parts((run / "pipeline/README.md").read_text())
        summary, config = json.loads((run / "summary.json").read_text()), load_config(run / "config.yaml")
        assert front["library_name"] == "diffusers"
        assert "base_model" not in front  # a folder of this disk is nobody else's to find
        assert text.startswith(MARK)
        for said in (
            f"{summary['pairs']} pairs of `{pairs.name}`",
            f"| steps | {config.train.steps} of {config.train.batch_size} pairs |",
            f"| seed | {config.train.seed} |",
            summary["checkpoint"],
            "not stated in the folder",
            "not measured yet",
            summary["verdicts"][0]["because"],
        ):
            assert said in text, said
        assert str(pairs.parent) not in text

    def test_the_hubs_own_library_reads_it(self, run: Path) -> None:
        from huggingface_hub import ModelCard

        card = ModelCard.load(run / "pipeline/README.md")
        assert card.data.license == "other"
        assert "siamese-diffusion" in (card.data.tags or [])

    def test_licence_and_source_are_those_of_the_folder(self, run: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
        summary = json.loads((run / "summary.json").read_text())
        summary["data"] |= {"licence": "CC BY 4.0", "source": "datasets.simula.no"}
        (tmp_path / "run/summary.json").write_text(json.dumps(summary))
        card = model_card(tmp_path / "run")
        assert "Licence of the data: CC BY 4.0." in card
        assert "Source: datasets.simula.no." in card

    def test_a_run_of_an_earlier_version_has_one_too(self, run: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
        (tmp_path / "run/summary.json").write_text('{"run": "x", "parameters": 5}')
        assert "an unknown number of pairs" in model_card(tmp_path / "run")

    def test_several_classes_are_named(self, run: Path, drawn: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
        changed = load_config(run / "config.yaml", {"data.classes": ["adenoma=1", "serrated"]})
        (tmp_path / "run/config.yaml").write_text(dump_config(changed))
        assert "label maps: 0 background, 1 adenoma, 2 serrated." in model_card(tmp_path / "run")
        shutil.copytree(drawn, tmp_path / "new")
        about = json.loads((drawn / "card.json").read_text()) | {"classes": ["adenoma", "serrated"]}
        (tmp_path / "new/card.json").write_text(json.dumps(about))
        assert "(labels: 0 background, 1 adenoma, 2 serrated)" in data_card(tmp_path / "new")

    def test_somebody_elses_text_stays(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
        card = tmp_path / "run/pipeline/README.md"
        card.write_text("My own.")
        write_model_card(tmp_path / "run")
        assert card.read_text() == "My own."
        assert "stays as it is" in capsys.readouterr().err


class TestData:
    def test_it_says_where_the_pairs_come_from(self, drawn: Path, run: Path, pairs: Path) -> None:
        front, text = parts((drawn / "README.md").read_text())
        summary = json.loads((run / "summary.json").read_text())
        assert front["task_categories"] == ["image-segmentation"]
        assert front["size_categories"] == ["n<1K"]
        for said in (
            "# 8 drawn images of polyp",
            summary["checkpoint"],
            "flip-scale-shift",
            pairs.name,
            "Not measured yet",
        ):
            assert said in text, said

    def test_shards_have_one_too(self, run: Path, pairs: Path, tmp_path: Path) -> None:
        sample(run, pairs, tmp_path / "new", format="webdataset", device="cpu")
        assert "WebDataset" in (tmp_path / "new/README.md").read_text()

    def test_hugging_face_datasets_loads_the_folder(
        self, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        datasets = pytest.importorskip("datasets")
        loaded = datasets.load_dataset("imagefolder", data_dir=str(drawn), split="train", cache_dir=str(tmp_path))
        own = {pair.name: pair for pair in DataFolder(drawn).pairs()}
        assert len(loaded) == len(own)
        assert set(loaded.features) == {"image", "mask", "prompt", "synthetic"}
        row = loaded[0]
        pair = own[Path(row["image"].filename).stem]
        image, mask = pair.read()
        assert np.array_equal(np.asarray(row["image"]), image)
        assert np.array_equal(np.asarray(row["mask"]) > 0, mask)
        assert row["synthetic"]
        assert row["prompt"] == pair.prompt

    def test_our_own_readers_are_not_confused_by_it(self, drawn: Path, tmp_path: Path) -> None:
        shutil.copytree(drawn, tmp_path / "new")
        whole = DataFolder(tmp_path / "new")
        assert whole.require_listing().layout == "pairs.jsonl"
        (tmp_path / "new/pairs.jsonl").unlink()
        (tmp_path / "new/grid.png").unlink()
        table = DataFolder(tmp_path / "new")
        assert "metadata.jsonl" in table.require_listing().layout
        assert [pair.name for pair in table.pairs()] == [pair.name for pair in DataFolder(drawn).pairs()]
        with pytest.raises(InputError, match="8 of 8 pairs are synthetic"):
            table.require_real()

    def test_real_pairs_stay_real(self, tmp_path: Path) -> None:
        make_phantoms(tmp_path / "phantoms", 3, 32)
        (tmp_path / "phantoms/pairs.jsonl").unlink()
        assert len(DataFolder(tmp_path / "phantoms").require_real().pairs()) == 3

    def test_a_resumed_folder_ends_with_the_same_metadata(self, run: Path, pairs: Path, tmp_path: Path) -> None:
        sample(run, pairs, tmp_path / "new", device="cpu")
        before = (tmp_path / "new/metadata.jsonl").read_bytes()
        (tmp_path / "new/metadata.jsonl").unlink()
        sample(run, pairs, tmp_path / "new", device="cpu", resume=True)
        assert (tmp_path / "new/metadata.jsonl").read_bytes() == before


class TestEvaluated:
    """What `evaluate --run` and `filter` do to cards."""

    def test_both_cards_say_what_was_found(self, run: Path, drawn: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
        shutil.copytree(drawn, tmp_path / "new")
        require_drawn_by(tmp_path / "run", DataFolder(tmp_path / "new"))
        note_in_cards(tmp_path / "run", DataFolder(tmp_path / "new"), METRICS)
        for card in (tmp_path / "run/pipeline/README.md", tmp_path / "new/README.md"):
            text = card.read_text()
            assert "Are they new? **good.** No image is flagged." in text
            assert "0.500 (0.400 to 0.600)" in text
            assert "not measured yet" not in text.lower()

    def test_pairs_of_another_run_are_refused(self, run: Path, pairs: Path, drawn: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="did not draw the pairs"):
            require_drawn_by(run, DataFolder(pairs))
        with pytest.raises(InputError, match="is no finished run of `train`"):
            require_drawn_by(tmp_path, DataFolder(drawn))

    def test_filtered_pairs_take_the_notes_along(self, drawn: Path, tmp_path: Path) -> None:
        shutil.copytree(drawn, tmp_path / "kept")
        for name in ("card.json", "README.md"):
            (tmp_path / "kept" / name).unlink()
        (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
        hand_on(tmp_path, drawn, tmp_path / "kept", "5 of 8: mask fit (Dice) from 0.6")
        text = (tmp_path / "kept/README.md").read_text()
        assert "| chosen | 5 of 8: mask fit (Dice) from 0.6 |" in text
        assert "Measured on 8 pairs, `new`" in text

    def test_a_card_is_made_anew(self, drawn: Path, tmp_path: Path) -> None:
        shutil.copytree(drawn, tmp_path / "new")
        note_evaluation(tmp_path / "new", METRICS, "new", "hash")
        write_data_card(tmp_path / "new")
        assert "Are they new?" in (tmp_path / "new/README.md").read_text()


def test_the_pictures_are_those_of_the_card(drawn: Path) -> None:
    for line in (drawn / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        for key in ("file_name", "mask_file_name"):
            with Image.open(drawn / row[key]) as image:
                assert image.size == (32, 32)
