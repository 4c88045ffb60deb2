"""Every command that writes, as it is typed: the one table that `kills`, `disk` and `soak` draw from."""

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from campaign import hub
from campaign.entrance import TINY
from siamese_diffusion.data.fetch.catalogue import RELEASES, Archive, Release, place_folders

SETTINGS = {
    **TINY,
    "pretrain": {"steps": 3, "batch_size": 4, "sample_every": 100, "checkpoint_every": 2, "log_every": 1, "warmup": 0},
    "train": {"steps": 4, "batch_size": 4, "sample_every": 3, "checkpoint_every": 1, "log_every": 1, "warmup": 0},
    "sample": {"steps": 2, "batch_size": 3, "shard_size": 2},
    "segment": {
        **{"resolution": 32, "steps": 5, "batch_size": 4},
        **{"sample_every": 2, "checkpoint_every": 1, "log_every": 1, "warmup": 0},
    },
    "evaluate": {"fit_steps": 2, "fit_network": "unet_plain"},
}
"""Of the smallest networks, in a few steps, each of which leaves something behind."""

STUDY = {
    "settings": {
        **SETTINGS,
        "train": {**SETTINGS["train"], "steps": 2},
        "segment": {**SETTINGS["segment"], "steps": 2},
    },
    "data": {"tiny": {"train": "pairs", "test": ["other"], "backbone": "backbone"}},
    "networks": {"unet_plain": {}},
    "seeds": {"segmentation": [0], "diffusion": 0},
    "judge": {"settings": {"segment.validation": 0.3}},
    "arms": {"real": None, "copy-paste": None, "siamese": {"min_fit": 0}},
}

STUDY_BY_TWO = {**STUDY, "arms": {"real": None, "copy-paste": None}}
"""Each stage is a process of its own here, which imports everything."""

JOB = {
    **SETTINGS,
    "data": {"resolution": 32},
    "segment": {**SETTINGS["segment"], "network": "unet_plain", "steps": 2},
    "train": {**SETTINGS["train"], "steps": 2},
}
"""Of `run`: no encoder of an installed package."""


@dataclass(frozen=True)
class Command:
    """A command line, with `{sources}` for the folder of what it reads; it writes `out` in the current folder."""

    name: str
    arguments: tuple[str, ...]
    weight: int = 10
    """How often it is drawn, relative to the others."""
    resumes: bool = True
    """Whether it has `--resume`; else the same call goes on."""
    refuses_finished: bool = False
    """Whether a finished folder is refused, as of a command that has nothing to add to it."""
    drawn: tuple[str, ...] = ()
    """Files whose content comes from the operating system's random numbers: they are only counted."""
    serves: str = ""
    """What a local server has for it."""
    light: bool = False
    """Whether it needs no networks, so that a campaign of such commands alone begins at once."""
    by_hand: bool = False
    """Whether it takes seconds, so that a short campaign leaves it out."""

    def line(self, sources: Path, again: bool = False) -> list[str]:
        """The arguments; `again`: of the call that goes on."""
        more = ["--resume"] if again and self.resumes else []
        return [argument.replace("{sources}", str(sources)) for argument in self.arguments] + more


def _with_settings(*arguments: str) -> tuple[str, ...]:
    return *arguments, "--config", "{sources}/tiny.yaml", "--device", "cpu", "--out", "out"


COMMANDS = (
    Command("pretrain", _with_settings("pretrain", "--images", "{sources}/pairs"), 15),
    Command(
        "train", _with_settings("train", "--data", "{sources}/pairs", "--backbone", "{sources}/backbone/backbone"), 20
    ),
    Command("train, small", _with_settings("train", "--data", "{sources}/pairs"), 5),
    Command("sample", _with_settings("sample", "--checkpoint", "{sources}/run", "--masks", "{sources}/pairs"), 15),
    Command(
        "sample to shards",
        (
            *_with_settings("sample", "--checkpoint", "{sources}/run", "--masks", "{sources}/pairs"),
            *("--format", "webdataset"),
        ),
        15,
    ),
    Command(
        "sample into images",
        (
            *_with_settings("sample", "--checkpoint", "{sources}/run", "--masks", "{sources}/pairs"),
            *("--into", "{sources}/other"),
        ),
        10,
    ),
    Command(
        "evaluate",
        _with_settings("evaluate", "--real", "{sources}/pairs", "--synthetic", "{sources}/made"),
        15,
    ),
    Command("filter", ("filter", "--scores", "{sources}/scores", "--max-boundary", "1", "--anyway", "--out", "out")),
    Command(
        "segment",
        _with_settings("segment", "--train", "{sources}/pairs", "--test", "{sources}/other", "--network", "unet_plain"),
        20,
    ),
    Command(
        "segment, both arms",
        (
            *_with_settings("segment", "--train", "{sources}/pairs", "--synthetic", "{sources}/made"),
            *("--seeds", "2", "--network", "unet_plain"),
        ),
        10,
    ),
    Command(
        "predict",
        (
            *("predict", "--network", "{sources}/network", "--images", "{sources}/other", "--probability-maps"),
            *("--masks", "{sources}/other", "--batch-size", "3", "--device", "cpu", "--out", "out"),
        ),
        refuses_finished=True,
    ),
    Command(
        "study",
        ("study", "--config", "{sources}/study.yaml", "--device", "cpu", "--out", "out"),
        8,
        resumes=False,
        by_hand=True,
    ),
    Command(
        "study by two",
        ("study", "--config", "{sources}/study2.yaml", "--workers", "2", "--device", "cpu", "--out", "out"),
        4,
        resumes=False,
        by_hand=True,
    ),
    Command(
        "run",
        ("run", "--data", "{sources}/many", "--config", "{sources}/job.yaml", "--device", "cpu", "--out", "out"),
        8,
        by_hand=True,
    ),
    Command(
        "train from the hub",
        _with_settings("train", "--data", "{sources}/pairs", "--backbone", hub.BACKBONE),
        8,
        serves="{sources}/hub",
    ),
    Command(
        "segment from the hub",
        (
            *_with_settings("segment", "--train", "{sources}/pairs", "--network", "smp"),
            *("--set", "segment.encoder=tu-test_resnet", "--set", "segment.weights=imagenet"),
        ),
        8,
        serves="{sources}/hub",
    ),
    Command("phantoms", ("phantoms", "--count", "6", "--resolution", "32", "--out", "out"), resumes=False, light=True),
    Command(
        "import",
        ("import", "{sources}/original.ckpt", "--config", "{sources}/tiny.yaml", "--out", "out"),
        5,
        resumes=False,
        refuses_finished=True,
    ),
    Command(
        "export",
        ("export", "--checkpoint", "{sources}/run", "--out", "out"),
        5,
        resumes=False,
        refuses_finished=True,
    ),
    Command(
        "export to the original's format",
        ("export", "--checkpoint", "{sources}/imported", "--to", "original", "--out", "out.ckpt"),
        5,
        resumes=False,
        refuses_finished=True,
    ),
    Command(
        "data get",
        ("data", "get", "faults", "--accept-licence", "--out", "out"),
        resumes=False,
        serves="{sources}/faults.zip",
        light=True,
    ),
    Command(
        "rate export",
        (
            *("rate", "export", "--real", "{sources}/pairs", "--synthetic", "{sources}/made"),
            *("--count", "2", "--out", "out"),
        ),
        resumes=False,
        refuses_finished=True,
        drawn=("out/key.json", "out/rate.html"),
    ),
    Command(
        "rate score",
        ("rate", "score", "{sources}/sheet.json", "--key", "{sources}/rated/key.json", "--out", "out"),
        5,
        resumes=False,
    ),
)


class Sources:
    """What the commands read, each made when it is asked for, with the commands themselves.

    Args:
        folder: where they lie.
        call: runs a command line, and raises where it does not end well.
        do: the same for a function.
    """

    def __init__(
        self, folder: Path, call: Callable[[list[str]], None], do: Callable[[Callable[[], object]], None]
    ) -> None:
        self.folder, self.call, self.do = folder, call, do
        folder.mkdir(parents=True)
        for name, value in (("tiny", SETTINGS), ("study", STUDY), ("study2", STUDY_BY_TWO), ("job", JOB)):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(value))

    def need(self, text: str) -> None:
        """Make what a command line, or a study file, names."""
        names = re.findall(r"\{sources\}/([\w.]+)", text)
        for name in names:
            if not (self.folder / name).exists():
                self._make(name)
            elif name in ("study.yaml", "study2.yaml"):
                self.need("{sources}/pairs {sources}/other {sources}/backbone")

    def _make(self, name: str) -> None:
        if name == "original.ckpt":
            self.do(partial(_save_original, self.folder / name))
        elif name == "sheet.json":
            self.need("{sources}/rated")
            _fill_sheet(self.folder)
        elif name == "hub":
            self.need("{sources}/backbone")
            self.do(partial(hub.fill, self.folder / name, self.folder / "backbone/backbone"))
        elif name == "faults.zip":
            self.need("{sources}/pairs")
            _pack_release(self.folder)
        else:
            line = MAKING[name]
            self.need(line)
            self.call([*line.replace("{sources}", str(self.folder)).split(), "--out", str(self.folder / name)])


_TINY = "--config {sources}/tiny.yaml"
MAKING = {
    "pairs": "phantoms --count 6 --resolution 32 --seed 3",
    "many": "phantoms --count 24 --resolution 32 --seed 5",
    "other": "phantoms --count 6 --resolution 32 --seed 4",
    "backbone": f"pretrain --images {{sources}}/pairs --device cpu {_TINY}",
    "run": f"train --data {{sources}}/pairs --backbone {{sources}}/backbone/backbone --device cpu {_TINY}",
    "made": f"sample --checkpoint {{sources}}/run --masks {{sources}}/pairs --device cpu {_TINY}",
    "scores": f"evaluate --real {{sources}}/pairs --synthetic {{sources}}/made --device cpu {_TINY}",
    "network": f"segment --network unet_plain --train {{sources}}/pairs --device cpu {_TINY}",
    "imported": f"import {{sources}}/original.ckpt {_TINY}",
    "rated": "rate export --real {sources}/pairs --synthetic {sources}/made --count 2",
}
"""The commands that make what other commands read, by its name."""


def _save_original(path: Path) -> None:
    """A checkpoint as the authors release it: every part, text encoder included; and a tokenizer beside it."""
    import torch
    from safetensors.torch import load_file

    from siamese_diffusion.diffusion.backbone import _small_text_encoder

    recorded = Path(__file__).parents[2] / "tests/data/golden/tiny_state_dict_e5m2.safetensors"
    state = {key: value.float() for key, value in load_file(recorded).items()}
    encoder, tokenizer = _small_text_encoder(16)
    for key, value in encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    torch.save({"state_dict": state}, path)
    tokenizer.save_pretrained(path.parent / "tokenizer")


def _fill_sheet(sources: Path) -> None:
    """What a reader saves."""
    key = json.loads((sources / "rated/key.json").read_text())
    rows = [{"id": image["id"], "rating": 3, "answer": "real"} for image in key["images"]]
    sheet = {"format": "siamese-diffusion ratings 1", "study": key["study"], "reader": "A", "ratings": rows}
    (sources / "sheet.json").write_text(json.dumps(sheet))


def _pack_release(sources: Path) -> None:
    """A data set as a provider packs it."""
    with zipfile.ZipFile(sources / "faults.zip", "w") as archive:
        for path in sorted((sources / "pairs").glob("*/*.png")):
            archive.write(path, f"faults/{path.parent.name}/{path.name}")


def register_release(address: str) -> None:
    """Make `data get faults` fetch from an address."""
    archive = Archive("faults.zip", (address,))
    RELEASES["faults"] = Release(
        *("faults", "a data set of six phantoms", {"all": 6}, "here", "none", "nobody", (archive,)),
        unpacked=1 << 20,
        place=place_folders("images", "masks"),
    )
