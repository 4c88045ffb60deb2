"""The Hugging Face hub, by a small stand-in: what is fetched from it, what is pushed to it, and what is not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, serving

from siamese_diffusion import export, import_, sample, train
from siamese_diffusion.cards import note_evaluation
from siamese_diffusion.config import Config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_weights
from siamese_diffusion.errors import InputError
from siamese_diffusion.hub import fetch, missing, push, repository, require_source


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestNames:
    """What is a hub id, told without asking the hub."""

    def test_a_name_of_two_parts_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs/kvasir").mkdir(parents=True)
        assert repository("SylarQ/Siamese-Diffusion") == "SylarQ/Siamese-Diffusion"
        assert repository("hf://runs/kvasir") == "runs/kvasir"
        for path in ("runs/kvasir", "runs/kvasri", "runs", "a/b/c", "/a/b", "./a/b", "a/b.ckpt", tmp_path):
            assert repository(path) is None

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("smal", "did you mean small"),
            ("runs/kvasri", "did you mean runs/kvasir"),
            ("runs/other", "on the hub it is hf://runs/other"),
            ("hf://one", "is no hub id"),
            ("one", "one of small, sd15, or a hub id"),
        ],
    )
    def test_what_it_cannot_be_is_told(
        self, text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs/kvasir").mkdir(parents=True)
        with pytest.raises(InputError, match=f"--backbone {text}: .*{words}"):
            require_source(text, "--backbone", ("small", "sd15"))
        for there in ("small", "runs/kvasir", "some/body"):
            require_source(there, "--backbone", ("small", "sd15"))
        assert "--data x: no such file or folder" in str(missing("x", "--data"))


class TestFetch:
    def test_tensors_and_settings_and_nothing_else(self, hub: Hub) -> None:
        wanted = {"config.json": b"{}", "unet/diffusion_pytorch_model.safetensors": b"1", "tokenizer/merges.txt": b""}
        besides = {"unet/diffusion_pytorch_model.fp16.safetensors": b"2", "unet/model.bin": b"3", "pipeline.py": b"4"}
        hub.add("some/body", wanted | besides)
        assert files_of(fetch("some/body", "--checkpoint")) == wanted
        asked = len(hub.asked)
        fetch("some/body", "--checkpoint")
        assert not any("GET" in line and "resolve" in line for line in hub.asked[asked:])  # what is there stays

    def test_what_is_not_there_is_one_line(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.add("some/secret", {"config.json": b"{}"}, private=True)
        for name in ("some/thing", "some/secret"):
            with pytest.raises(InputError, match=f"--checkpoint {name}: the hub has no such repository"):
                fetch(name, "--checkpoint")
        hub.add("some/code", {"a.py": b""})
        with pytest.raises(InputError, match="has no "):
            fetch("some/code", "--checkpoint")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(InputError, match="cannot be reached, and its cache does not hold it"):
            fetch("some/other", "--checkpoint")

    def test_a_private_one_with_its_token(self, hub: Hub, logged_in: None) -> None:
        hub.add("some/secret", {"config.json": b"{}"}, private=True)
        assert files_of(fetch("some/secret", "--checkpoint")) == {"config.json": b"{}"}


class TestCommands:
    """The commands that take a hub id."""

    def test_checkpoint_and_masks(self, run: Path, pairs: Path, hub: Hub, tmp_path: Path) -> None:
        export(run, tmp_path / "exported")
        hub.add("some/model", files_of(tmp_path / "exported"))
        hub.add("some/masks", files_of(pairs), "dataset")
        result = sample("some/model", "hf://some/masks", tmp_path / "hub", device="cpu")
        assert result["checkpoint"] == hash_weights(run / "pipeline")
        sample(run, pairs, tmp_path / "disk", device="cpu")
        for name in ("images", "masks"):
            assert files_of(tmp_path / "hub" / name) == files_of(tmp_path / "disk" / name)

    def test_backbone(self, backbone: Path, pairs: Path, tiny: Config, hub: Hub, tmp_path: Path) -> None:
        hub.add("some/backbone", files_of(backbone / "backbone"))
        train(pairs, tmp_path / "run", "some/backbone", config=tiny, device="cpu")
        card = (tmp_path / "run/pipeline/README.md").read_text()
        assert "base_model: some/backbone" in card

    def test_import_of_a_file_of_the_authors(self, hub: Hub, tmp_path: Path) -> None:
        hub.add("some/authors", {"one.ckpt": b"not weights", "two.ckpt": b"", "README.md": b""})
        with pytest.raises(InputError, match=r"name one of them as some/authors/FILE: one\.ckpt, two\.ckpt"):
            import_("some/authors", tmp_path / "run")
        for source in ("some/authors/one.ckpt", "hf://some/authors/one.ckpt"):
            with pytest.raises(InputError, match=r"one\.ckpt: cannot be read as weights"):
                import_(source, tmp_path / "run")
        hub.add("some/pipeline", {"unet/diffusion_pytorch_model.safetensors": b""})
        with pytest.raises(InputError, match="which `sample --checkpoint` takes"):
            import_("some/pipeline", tmp_path / "run")

    def test_a_pipeline_without_settings_is_told(self, run: Path, hub: Hub, tmp_path: Path) -> None:
        hub.add("some/model", files_of(run / "pipeline"))
        with pytest.raises(InputError, match=r"--checkpoint some/model: has no config\.yaml"):
            sample("some/model", run, tmp_path / "out")


METRICS = {
    "counts": {"real": 8, "synthetic": 8, "held_out": 0},
    "fit": {"dice": {"mean": 0.5, "low": 0.4, "high": 0.6}, "judge": {"dice": 0.8}},
    "quality": {"kd": {"value": 1.0, "low": 0.9, "high": 1.1, "extractor": "judge", "real": None}},
    "novelty": {"share_flagged": 0.0, "false_alarm_rate": 0.01, "target": 0.01, "threshold": 1, "flagged": []},
    "verdicts": [{"question": "Are they new?", "word": "good", "because": "No image is flagged."}],
    "protocol": {"version": "0.2.0", "seed": 0},
}
"""The part of what `evaluate` returns that cards are made of."""


class TestPush:
    @pytest.fixture
    def drawn(self, run: Path, pairs: Path, tmp_path: Path) -> Path:
        sample(run, pairs, tmp_path / "drawn", device="cpu")
        return tmp_path / "drawn"

    def flag(self, folder: Path, *names: str) -> None:
        novelty = {**METRICS["novelty"], "flagged": [{"synthetic": name} for name in names]}  # type: ignore[dict-item]
        note_evaluation(folder, {**METRICS, "novelty": novelty}, "drawn", "hash")

    def test_a_model_comes_back_as_it_went(
        self, run: Path, pairs: Path, hub: Hub, logged_in: None, tmp_path: Path
    ) -> None:
        shutil.copytree(run, tmp_path / "run")
        self.flag(tmp_path / "run")
        result = export(tmp_path / "run", push="clinic/polyps")
        assert result["private"]
        pushed = hub.repositories["model", "clinic/polyps"]
        assert pushed.private
        assert {
            "README.md",
            "config.yaml",
            "summary.json",
            "evaluation.json",
            "model_index.json",
        } <= pushed.files.keys()
        assert str(tmp_path).encode() not in b"".join(pushed.files.values())  # nobody learns where it lay
        assert b"Are they new?" in pushed.files["README.md"]
        result = sample("clinic/polyps", pairs, tmp_path / "new", device="cpu")
        assert result["checkpoint"] == hash_weights(run / "pipeline")

    def test_a_model_whose_images_nobody_has_looked_at_stays_here(
        self, run: Path, hub: Hub, logged_in: None, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=r"nobody has looked .*evaluate.*--run"):
            export(run, push="clinic/polyps")
        shutil.copytree(run, tmp_path / "run")
        self.flag(tmp_path / "run", "a", "b")
        with pytest.raises(InputError, match="2 of its images are flagged as copies"):
            export(tmp_path / "run", push="clinic/polyps")
        assert not hub.repositories
        export(tmp_path / "run", push="clinic/polyps", allow_flagged=True, public=True)
        assert not hub.repositories["model", "clinic/polyps"].private

    def test_pairs_come_back_as_they_went(self, drawn: Path, hub: Hub, logged_in: None, tmp_path: Path) -> None:
        (drawn / "private.txt").write_text("not ours")
        self.flag(drawn)
        export(pairs=drawn, push="clinic/drawn")
        pushed = hub.repositories["dataset", "clinic/drawn"]
        assert pushed.private
        assert {"metadata.jsonl", "pairs.jsonl", "README.md"} <= pushed.files.keys()
        assert not {"private.txt", "inputs.json"} & pushed.files.keys()
        assert str(tmp_path).encode() not in b"".join(pushed.files.values())
        for name, content in pushed.files.items():
            (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "again" / name).write_bytes(content)
        assert [pair.name for pair in DataFolder(tmp_path / "again").pairs()] == [
            pair.name for pair in DataFolder(drawn).pairs()
        ]

    def test_flagged_pairs_stay_until_they_are_dropped(self, drawn: Path, hub: Hub, logged_in: None) -> None:
        name = DataFolder(drawn).pairs()[0].name
        self.flag(drawn, name)
        with pytest.raises(InputError, match=f"1 of its images are flagged as copies of training images, {name}"):
            export(pairs=drawn, push="clinic/drawn")
        rows = [row for row in (drawn / "pairs.jsonl").read_text().splitlines() if f"/{name}.png" not in row]
        (drawn / "pairs.jsonl").write_text("\n".join(rows) + "\n")
        export(pairs=drawn, push="clinic/drawn")

    def test_real_pairs_are_never_pushed(self, drawn: Path, hub: Hub, logged_in: None) -> None:
        rows = [json.loads(row) for row in (drawn / "pairs.jsonl").read_text().splitlines()]
        del rows[0]["synthetic"]
        (drawn / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        self.flag(drawn)
        with pytest.raises(InputError, match="1 of its pairs were not drawn"):
            export(pairs=drawn, push="clinic/drawn", allow_flagged=True)
        assert not hub.repositories

    def test_what_the_hub_refuses_is_one_line(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model/README.md").write_text("A model.")
        with pytest.raises(InputError, match="--push clinic/new: nobody is logged in"):
            push(tmp_path / "model", "clinic/new", "model")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        with pytest.raises(InputError, match="--push other/new: whoever is logged in to the hub may not do that"):
            push(tmp_path / "model", "other/new", "model")
        push(tmp_path / "model", "new", "model", public=True)
        with pytest.raises(InputError, match="--push clinic/new: is there already and everybody can read it; --public"):
            push(tmp_path / "model", "clinic/new", "model")
        with pytest.raises(InputError, match="is no name of a repository"):
            push(tmp_path / "model", "a b", "model")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"pairs": "x"}, "--pairs: is for --push"),
            ({"checkpoint": "x"}, "give --out"),
            ({"checkpoint": "x", "out": "y", "public": True}, "--public: is for --push"),
            ({"checkpoint": "x", "pairs": "y", "push": "a/b"}, "give one of --checkpoint"),
            ({"pairs": "x", "push": "a/b", "to": "onnx"}, "take --out and --to away"),
            ({"checkpoint": "x", "push": "a/b", "to": "original"}, "--push takes the diffusers form"),
        ],
    )
    def test_options_that_do_not_go_together(self, options: dict[str, object], words: str) -> None:
        with pytest.raises(InputError, match=words):
            export(**options)  # type: ignore[arg-type]
