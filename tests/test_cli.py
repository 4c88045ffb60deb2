"""The command line: start-up, exit statuses, and that no traceback reaches a user."""

import ast
import errno
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import siamese_diffusion
from siamese_diffusion.cli import app, main
from siamese_diffusion.files import full_disk_named

COMMANDS = (
    *(
        "demo",
        "run",
        "check",
        "prepare",
        "phantoms",
        "pretrain",
        "train",
        "train-masks",
        "sample",
        "evaluate",
        "filter",
        "segment",
        "study",
    ),
    *("import", "export", "export-nnunet", "data", "rate"),
)


def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "siamese_diffusion", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def call_here(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """The same in this process, which has its libraries already; an error that is not caught is the test's."""
    command = ["siamese-diffusion", *map(str, arguments)]
    with (
        redirect_stdout(io.StringIO()) as output,
        redirect_stderr(io.StringIO()) as errors,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(command, int(ended.value.code or 0), output.getvalue(), errors.getvalue())


def assert_refused(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, result.stderr
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = call(command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, siamese_diffusion.cli; print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "{missing}"], ["missing"]),
        (["check", "{empty}"], ["empty"]),
        (["train", "--data", "{empty}", "--out", "{out}"], ["empty"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--set", "train.stpes=3"], ["train.stpes", "train.steps"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--set", "train.steps=-1"], ["train.steps", "-1"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--set", "steps"], ["--set steps"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--config", "{missing}"], ["--config"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--method", "magic"], ["--method magic", "siamese"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--backbone", "{empty}"], ["--backbone"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--device", "cuda:7"], ["--device cuda:7"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--set", "data.resolution=50"], ["data.resolution"]),
        (["train", "--data", "{pairs}", "--out", "{out}", "--set", "data.limit=999"], ["999"]),
        (["train", "--data", "{unpaired}", "--out", "{out}"], ["lonely.png"]),
        (["train", "--data", "{corrupt}", "--out", "{out}"], ["torn.png"]),
        (["train", "--data", "{sizes}", "--out", "{out}"], ["uneven.png"]),
        (["sample", "--checkpoint", "{empty}", "--masks", "{pairs}", "--out", "{out}"], ["--checkpoint"]),
        (["pretrain", "--images", "{missing}", "--out", "{out}"], ["missing"]),
        (["segment", "--train", "{empty}", "--test", "{pairs}", "--out", "{out}"], ["empty"]),
        (
            ["segment", "--train", "{pairs}", "--test", "{sizes}", "--out", "{out}", "--network", "magic"],
            ["magic", "unet"],
        ),
        (["evaluate", "--real", "{pairs}", "--synthetic", "{empty}", "--out", "{out}"], ["empty"]),
        (["evaluate", "--real", "{pairs}", "--out", "{out}"], ["--synthetic", "--masks"]),
        (["evaluate", "--real", "{pairs}", "--masks", "{empty}", "--out", "{out}"], ["empty"]),
        (["train-masks", "--data", "{empty}", "--out", "{out}"], ["empty"]),
        (["train-masks", "--data", "{pairs}", "--out", "{out}"], ["pairs", "at least 8"]),
        (["import", "{missing}", "--out", "{out}"], ["missing", "no such file"]),
        (["import", "{corrupt}/images/torn.png", "--out", "{out}"], ["torn.png", "cannot be read as weights"]),
        (["export", "--checkpoint", "{empty}", "--out", "{out}"], ["--checkpoint", "empty"]),
        (["export", "--network", "{empty}", "--to", "onnx", "--out", "{out}"], ["empty", "not a finished run"]),
        (["export-nnunet", "--data", "{empty}", "--out", "{out}", "--name", "x"], ["empty"]),
        (["predict", "--out", "{out}"], ["--network", "--from-nnunet"]),
        (["demo", "--out", "{pairs}", "--size", "smallest"], ["--out"]),
        (["demo", "--out", "{out}", "--size", "huge"], ["--size huge", "smallest"]),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments: list[str], words: list[str], folders: dict[str, Path]) -> None:
    assert_refused(call_here(*(argument.format(**folders) for argument in arguments)), *words)


def test_a_process_refuses_as_well(folders: dict[str, Path]) -> None:
    assert_refused(call("train", "--data", folders["corrupt"], "--out", folders["out"]), "torn.png")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    import numpy as np
    from PIL import Image

    def pair(folder: Path, name: str, side: int = 32, mask_side: int = 32) -> None:
        for part, array in (
            ("images", np.full((side, side, 3), 99, np.uint8)),
            ("masks", np.pad(np.full((8, 8), 255, np.uint8), (mask_side - 8) // 2)),
        ):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / part / f"{name}.png")

    names = ("pairs", "unpaired", "corrupt", "sizes", "empty")
    made = {name: tmp_path / name for name in names}
    for name in names[:-1]:
        pair(made[name], "good")
        pair(made[name], "fine")
    (made["empty"]).mkdir()
    pair(made["unpaired"], "lonely")
    (made["unpaired"] / "masks/lonely.png").unlink()
    pair(made["corrupt"], "torn")
    torn = made["corrupt"] / "images/torn.png"
    torn.write_bytes(torn.read_bytes()[:60])
    pair(made["sizes"], "uneven", mask_side=40)
    return {**made, "missing": tmp_path / "missing", "out": tmp_path / "out"}


def test_json_is_the_only_thing_on_standard_output(folders: dict[str, Path]) -> None:
    result = call("check", folders["pairs"], "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)


def test_a_process_of_several_leaves_their_group_at_its_end(folders: dict[str, Path], tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert call_here("check", folders["pairs"]).returncode == 0
        assert not torch.distributed.is_initialized()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


WRONG: tuple[tuple[list[str], str], ...] = (
    *(
        ([*command, "--out", "{out}", "--set", "train.stpes=3"], "--set: unknown setting train.stpes")
        for command in (
            ["pretrain", "--images", "{pairs}"],
            ["train", "--data", "{pairs}"],
            ["train-masks", "--data", "{pairs}"],
            ["sample", "--checkpoint", "{pairs}", "--masks", "{pairs}", "--config", "small"],
            ["evaluate", "--real", "{pairs}", "--synthetic", "{pairs}"],
            ["segment", "--train", "{pairs}"],
            ["import", "{pairs}"],
            ["run", "--data", "{pairs}"],
        )
    ),
    (
        ["train", "--data", "{pairs}", "--out", "{out}", "--backbone", "smal"],
        "--backbone smal: no such folder; did you",
    ),
    (
        ["run", "--data", "{pairs}", "--out", "{out}", "--backbone", "sd-15"],
        "--backbone sd-15: no such folder; did you",
    ),
    (["train", "--data", "{pairs}", "--out", "{out}", "--backbone", "{pears}"], "did you mean {pairs}?"),
    (["train", "--data", "{pears}", "--out", "{out}"], "--data {pears}: no such file or folder; did you mean {pairs}?"),
    (["train", "--data", "{pairs}", "--out", "{out}", "--method", "siames"], "--method siames: "),
    (["segment", "--data", "{pairs}", "--out", "{out}", "--network", "sanett"], "did you mean sanet?"),
    (["sample", "--checkpoint", "{pairs}", "--masks", "{pairs}", "--out", "{out}", "--steps", "0"], "--steps 0: "),
    (["sample", "--checkpoint", "{pears}", "--masks", "{pairs}", "--out", "{out}"], "--checkpoint {pears}: no such"),
    (["study", "--out", "{out}"], "study --example"),
)
"""Commands with something misspelt, and what is said."""


def test_what_is_misspelt_is_told_before_the_libraries_are_loaded(folders: dict[str, Path]) -> None:
    code = """if True:
        import json, sys
        from siamese_diffusion.cli import main
        for command in json.loads(sys.argv[1]):
            sys.argv = ["siamese-diffusion", *command]
            try:
                main()
            except SystemExit as ended:
                print(ended.code, [m for m in ("torch", "diffusers", "huggingface_hub") if m in sys.modules])
    """
    places = {**folders, "pears": folders["pairs"].with_name("pears")}
    commands = [[argument.format(**places) for argument in arguments] for arguments, _ in WRONG]
    told = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    assert told.stdout == "2 []\n" * len(WRONG)
    for line, (_, words) in zip(told.stderr.splitlines(), WRONG, strict=True):
        assert words.format(**places) in line


def test_a_reader_that_has_read_enough_ends_a_command_quietly(folders: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "siamese_diffusion", "check", str(folders["pairs"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "error" not in errors
    assert "Traceback" not in errors


def test_usage_error_is_status_2() -> None:
    result = call("train")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


CALLS: dict[str, tuple[str, list[str]]] = {
    "demo": ("demonstration.demo", []),
    "run": ("job.run", ["--data", "x", "--out", "x"]),
    "check": ("data.check.check", ["x"]),
    "prepare": ("data.prepare.prepare", ["x", "--out", "x"]),
    "phantoms": ("data.phantom.make_phantoms", ["--out", "x"]),
    "pretrain": ("diffusion.pretrain.pretrain", ["--images", "x", "--out", "x"]),
    "train": ("diffusion.train.train", ["--data", "x", "--out", "x"]),
    "train-masks": ("mask_training.train_masks", ["--data", "x", "--out", "x"]),
    "sample": ("diffusion.sample.sample", ["--checkpoint", "x", "--masks", "x", "--out", "x"]),
    "evaluate": ("evaluation.evaluate.evaluate", ["--real", "x", "--synthetic", "x", "--out", "x"]),
    "filter": ("evaluation.filter.filter_", ["--scores", "x", "--out", "x"]),
    "segment": ("segmentation.segment.segment", ["--train", "x", "--out", "x"]),
    "predict": ("segmentation.predict.predict", ["--network", "x", "--images", "x", "--out", "x"]),
    "status": ("run_status.status", ["x"]),
    "study": ("studies.study.study", ["--config", "x", "--out", "x"]),
    "import": ("diffusion.original.import_", ["x", "--out", "x"]),
    "export": ("exporting.export", ["--checkpoint", "x", "--out", "x"]),
    "export-nnunet": ("segmentation.nnunet.export_nnunet", ["--data", "x", "--out", "x", "--name", "x"]),
    "data list": ("data.fetch.get.list_data", ["--json"]),
    "data get": ("data.fetch.get.get_data", ["x", "--out", "x"]),
    "rate export": ("reader_study.rating.export_ratings", ["--real", "x", "--synthetic", "x", "--out", "x"]),
    "app": ("webapp.app.app", ["--out", "x"]),
    "rate score": ("reader_study.rating.score_ratings", ["x", "--key", "x"]),
}
"""Every command: its function, and the least that it is called with."""


def options() -> dict[str, set[str]]:
    """The options of every command."""

    def walk(group: Any, before: str = "") -> Iterator[tuple[str, set[str]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{name} ")
            else:
                yield before + name, {option for parameter in command.params for option in parameter.opts}

    return dict(walk(typer.main.get_command(app)))


@pytest.mark.parametrize("command", CALLS)
def test_no_command_advises_an_option_that_it_lacks(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def full(*_: Any, **__: Any) -> Any:
        with full_disk_named(tmp_path / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")

    known = options()
    assert known.keys() == CALLS.keys()
    function, arguments = CALLS[command]
    monkeypatch.setattr("siamese_diffusion.studies.spec.load_study", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()  # what every command is called with is there
    for end, status in ((interrupted, 130), (full, 2)):
        monkeypatch.setattr(f"siamese_diffusion.{function}", end)
        result = call_here(*command.split(), *arguments)
        assert result.returncode == status, result.stderr
        if status == 130:
            assert "interrupted" in result.stderr
            assert ("--resume" in result.stderr) == ("--resume" in known[command])
        named = known["study"] if "siamese-diffusion study" in result.stderr else known[command]  # what goes on with it
        assert set(re.findall(r"--[a-z-]+", result.stderr)) <= named, result.stderr


ADVISED = {
    "checkpoints": {"pretrain", "train", "train-masks", "evaluate", "segment"},
    # where `resume` is not None
    "claim": {"prepare", "pretrain", "train", "train-masks", "sample", "evaluate", "filter", "segment", "predict"},
    "console": {
        "prepare",
        "pretrain",
        "train",
        "train-masks",
        "sample",
        "evaluate",
        "filter",
        "segment",
        "predict",
    },  # asks whether the command has it
    "data.prepared": {"prepare"},  # which it names
    "data.shards": {"sample"},
    "diffusion.checkpoint": {"train"},  # which it names
    "diffusion.mask_prior": {"train-masks"},  # which it names
    "loop": {"pretrain", "train", "train-masks", "evaluate", "segment"},
    "segmentation.trained": {"segment"},  # which it names
    "studies.workers": {"pretrain", "train", "sample", "evaluate", "segment"},  # the command lines of stages
}
"""Modules with a text that has --resume in it, and the commands whose users may read it."""


def test_who_reads_of_resume_has_that_option() -> None:
    package = Path(siamese_diffusion.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        documents = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in documents)
        if any(isinstance(node.value, str) and "--resume" in node.value for node in texts):
            found.add(".".join(path.relative_to(package).with_suffix("").parts))
    assert found == ADVISED.keys()
    known = options()
    assert all("--resume" in known[command] for commands in ADVISED.values() for command in commands)


@pytest.mark.slow
def test_interrupt_is_status_130(tmp_path: Path) -> None:
    import signal

    assert call("phantoms", "--out", tmp_path / "p", "--count", 8, "--resolution", 64).returncode == 0
    command = [
        sys.executable,
        "-m",
        "siamese_diffusion",
        "pretrain",
        "--images",
        str(tmp_path / "p"),
        "--out",
        str(tmp_path / "b"),
    ]
    command += ["--set", "pretrain.steps=100000", "--set", "data.resolution=64", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "b/log.jsonl").exists() and (tmp_path / "b/log.jsonl").stat().st_size:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "b/checkpoints").glob("step-*"))


def test_version_and_short_help() -> None:
    assert call_here("--version").stdout == f"siamese-diffusion {siamese_diffusion.__version__}\n"
    for group in ([], ["data"], ["segment"], ["rate", "export"]):
        assert call_here(*group, "-h").stdout == call_here(*group, "--help").stdout
        assert "Usage" in call_here(*group, "-h").stdout
