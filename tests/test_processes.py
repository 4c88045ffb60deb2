"""Several processes do what one does: the same losses and weights, the same folder of pairs."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from siamese_diffusion.config import Config, dump_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.files import read_json, read_jsonl

TWO = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"]
TWO += [
    "--num_cpu_threads_per_process",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "-m",
    "siamese_diffusion",
]
"""`accelerate launch`; with --cpu it would start one process, whatever --num_processes says."""


def call(*arguments: object) -> None:
    """On one thread each: images are the same bit for bit only on the same number of threads."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def test_two_processes_train_as_one(tmp_path: Path, run: Path, pairs: Path, backbone: Path, tiny: Config) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny))
    options = ["--backbone", backbone, "--config", tmp_path / "tiny.yaml", "--device", "cpu"]
    call(*TWO, "train", "--data", pairs, "--out", tmp_path / "two", *options)
    ours, alone = read_jsonl(tmp_path / "two/log.jsonl"), read_jsonl(run / "log.jsonl")
    assert [row["step"] for row in ours] == [row["step"] for row in alone] == [1, 2, 3, 4, 5, 6, 6]
    assert ours.pop()["hint"] == pytest.approx(
        alone.pop()["hint"], rel=0.02
    )  # of weights, which round apart, see below
    for mine, single in zip(ours, alone, strict=True):
        for term in ("mask", "image", "consistency", "total"):
            assert mine[term] == pytest.approx(single[term], rel=1e-4, abs=1e-6)
    name = "unet/diffusion_pytorch_model.safetensors"
    before = load_file(backbone / "backbone" / name)
    these, those = load_file(tmp_path / "two/pipeline" / name), load_file(run / "pipeline" / name)
    apart = torch.cat([(these[key] - those[key]).flatten() for key in these]).norm()
    moved = torch.cat([(before[key] - those[key]).flatten() for key in these]).norm()
    assert apart < 0.02 * moved


def test_the_launcher_starts_as_many_processes_as_it_is_told(
    tmp_path: Path, pairs: Path, backbone: Path, tiny: Config
) -> None:
    """Three samples cannot be shared by two; one process would take them."""
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny))
    command = [*TWO, "train", "--data", pairs, "--out", tmp_path / "two", "--backbone", backbone, "--device", "cpu"]
    command += ["--config", tmp_path / "tiny.yaml", "--set", "train.batch_size=3"]
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    assert "batch_size = 3: must be a multiple of 2 processes" in " ".join(result.stderr.split())
    assert result.returncode != 0


STOPPED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_loop
from siamese_diffusion.checkpoints import latest_checkpoint
out, rank, at, ending = Path(sys.argv[1]), int(os.environ["RANK"]), int(sys.argv[2]), sys.argv[3]
settings = test_loop.SETTINGS.model_copy(update=dict(steps=10, checkpoint_every=100, log_every=100))
def batch_at(step, rows):
    if rank == 1 and step == at:
        os.kill(os.getpid(), getattr(signal, ending))
    return test_loop.batch_at(step, rows)
try:
    test_loop.run(test_loop.Model(), batch_at, settings, out, device="cpu")
    print(f"rank {{rank}} went on", flush=True)
except KeyboardInterrupt:
    print(f"rank {{rank}} stopped", "" if rank else latest_checkpoint(out).name, flush=True)
except RuntimeError as error:
    from siamese_diffusion.console import lost_process
    print(f"rank {{rank}} lost another: {{lost_process(error)}}", flush=True)
"""


def ranks(tmp_path: Path, at: int, ending: str) -> str:
    """What two ranks say, of which the second gets a signal in step `at`."""
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, *TWO[:-2], str(script), str(tmp_path / "out"), str(at), ending]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize(("at", "step"), [(3, 5), (9, 10)])
def test_a_rank_that_is_asked_to_stop_takes_the_others_along(tmp_path: Path, at: int, step: int) -> None:
    """After the same step, a step later; also where that is the last one. Alone it would leave them waiting."""
    told = ranks(tmp_path, at, "SIGTERM")
    assert f"rank 0 stopped step-{step:06d}" in told, told
    assert "rank 1 stopped" in told, told


def test_a_rank_that_dies_is_missed(tmp_path: Path) -> None:
    told = ranks(tmp_path, 3, "SIGKILL")
    assert "rank 0 lost another: True" in told or "SIGTERM" in told, told  # or the launcher was faster


def test_two_processes_share_out_the_pairs(tmp_path: Path, run: Path, pairs: Path) -> None:
    command = ["sample", "--checkpoint", run, "--masks", pairs, "--device", "cpu", "--out"]
    call("-m", "siamese_diffusion", *command, tmp_path / "one")
    call(*TWO, *command, tmp_path / "two")
    names = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(names) == 8 * 2 + 7
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", map(str, names), shallow=False)[0] == list(
        map(str, names)
    )
    assert not list((tmp_path / "two").glob("pairs.*.jsonl"))


def test_two_processes_write_shards_of_their_own(tmp_path: Path, run: Path, pairs: Path) -> None:
    command = ["sample", "--checkpoint", run, "--masks", pairs, "--device", "cpu", "--out"]
    call("-m", "siamese_diffusion", *command, tmp_path / "one")
    shards = ["--format", "webdataset", "--config", run / "config.yaml", "--set", "sample.shard_size=2"]
    call(*TWO, *command, tmp_path / "two", *shards)
    listed = read_json(tmp_path / "two/shards.json")
    # batches of three, three and two in turn
    assert [(Path(one["file"]).stem, one["pairs"]) for one in listed["shards"]] == [
        ("pairs-0000-000000", 2),
        ("pairs-0000-000001", 2),
        ("pairs-0000-000002", 1),
        ("pairs-0001-000000", 2),
        ("pairs-0001-000001", 1),
    ]
    for ours, theirs in zip(DataFolder(tmp_path / "two").pairs(), DataFolder(tmp_path / "one").pairs(), strict=True):
        assert (ours.name, ours.extra) == (theirs.name, theirs.extra)
        assert hash_files(ours.files) == hash_files(theirs.files)


def test_lines_of_a_killed_process_are_kept(tmp_path: Path) -> None:
    import numpy as np

    image, mask = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool)
    first, second = PairWriter(tmp_path / "out"), PairWriter(tmp_path / "out", process=1)
    first.write("b", image, mask, "x", {})
    second.write("a", image, mask, "x", {})  # and both are killed here
    again = PairWriter(tmp_path / "out", resume=True)
    assert again.done == {"a", "b"}
    again.close()
    assert [row["image"] for row in read_jsonl(tmp_path / "out/pairs.jsonl")] == ["images/a.png", "images/b.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "images",
        "inputs.json",
        "masks",
        "metadata.jsonl",
        "pairs.jsonl",
    ]
