"""`benchmarks/gpu.sh` runs for nine minutes on a machine that is not at hand: that it is whole is seen before."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT, PACK = ROOT / "benchmarks/gpu.sh", ROOT / "benchmarks/gpu-pack.sh"

pytestmark = pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash here")


def bash(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = ["bash", *map(str, arguments)]
    given = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=given)


def listed() -> tuple[dict[str, int], list[list[str]]]:
    """Limits of the parts in seconds, and their order: those in one list run side by side."""
    *parts, order = bash(SCRIPT, "--list").stdout.splitlines()
    limits = {line.split()[0]: int(line.split()[1]) for line in parts}
    return limits, [together.split("+") for together in order.removeprefix("order: ").split()]


def commands() -> dict[str, str]:
    """What each branch of `run_part` does, by the names of its parts."""
    body = SCRIPT.read_text().partition("run_part() {")[2].partition("esac")[0]
    branches = re.split(r"^ {8}([a-z][a-z| -]*)\)", body, flags=re.MULTILINE)[1:]
    named = zip(branches[::2], branches[1::2], strict=True)
    return {name.strip(): branch for names, branch in named for name in names.split("|")}


def test_every_part_has_a_limit_a_command_and_its_turn() -> None:
    limits, order = listed()
    assert limits.keys() == commands().keys()
    assert sorted(name for together in order for name in together) == sorted(limits)
    assert all('timed "$name"' in command for command in commands().values())


def test_what_is_worth_most_fits_nine_minutes() -> None:
    limits, order = listed()
    worth = order[: order.index(["mask-only", "siamese"]) + 1]
    assert sum(max(limits[name] for name in together) for together in worth) <= 540
    trained = SCRIPT.read_text()
    for part, setting in (("backbone", "backbone_seconds"), ("siamese", "arm_seconds")):
        seconds = re.search(rf"\b{setting}=(\d+)", trained)
        assert seconds is not None
        assert int(seconds[1]) + 60 <= limits[part]  # to start, to time forty steps, to draw


@pytest.mark.parametrize("name", sorted(commands()))
def test_its_command_gives_what_the_program_takes(name: str) -> None:
    command = commands()[name]
    programs = re.findall(r"\$speed/(\w+\.py)", command) or ["-m pytest"]
    assert len(programs) == 1
    if programs == ["-m pytest"]:
        assert (ROOT / "tests/test_gpu.py").exists()
        return
    source = (ROOT / "benchmarks/speed" / programs[0]).read_text()
    shared = re.search(r"drawing=\((.+)\)", SCRIPT.read_text())
    assert shared is not None
    for flag in re.findall(r"--[a-z-]+", command.replace('"${drawing[@]}"', shared[1])):
        assert f'"{flag}"' in source, f"{programs[0]} has no {flag}"


def test_a_part_that_is_not_there_is_refused() -> None:
    refused = bash(SCRIPT, "steps+nothing")
    assert (refused.returncode, refused.stderr) == (2, "nothing: no such part; see --list\n")
    refused = bash(SCRIPT, "--out")
    assert (refused.returncode, refused.stderr) == (2, "--out: give a value\n")


def test_what_is_packed_is_what_the_machine_lacks(tmp_path: Path) -> None:
    has = {line.split("==")[0] for line in (ROOT / "benchmarks/gpu-has.txt").read_text().split()}
    missing = dict(line.split("==") for line in bash(PACK, "--list").stdout.split())
    assert {"diffusers", "pydantic", "pydantic-core", "segmentation-models-pytorch"} <= missing.keys()
    assert not missing.keys() & has
    (tmp_path / "all").write_text("".join(f"{name}=={version}\n" for name, version in missing.items()))
    (tmp_path / "all").open("a").write("\n".join(sorted(has)))
    assert bash(PACK, "--list", HAS=str(tmp_path / "all")).stdout.strip() == ""


def test_bars_are_told_from_what_the_parts_wrote(tmp_path: Path) -> None:
    def bars() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "benchmarks/speed/gpu_bars.py"), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    none = bars()
    assert (none.returncode, none.stdout.count("not measured")) == (0, 5)
    rows = [
        {"side": side, "precision": precision, "micro": 24, "kept": kept, "channels_last": False, "gate": gate, **took}
        for side, precision, kept, took in (
            ("plain", "bf16", "none", {"seconds": 2.5}),
            ("ours", "bf16", "all", {"seconds": 1.0}),
            ("plain", "fp32", "none", {"seconds": 5.0}),
            ("ours", "fp32", "all", {"seconds": None}),  # out of memory
        )
        for gate in ("before the gate", "after the gate")
    ]
    (tmp_path / "steps.json").write_text(json.dumps({"rows": rows}))
    drawn = [("straightforward", 0.25), ("8 UniPC steps", 30.0), ("12 DPM-Solver++ steps", 4.0)]
    told = [{"variant": variant, "images_per_second": rate} for variant, rate in drawn]
    (tmp_path / "sampling.json").write_text(json.dumps(told))
    (tmp_path / "busy.json").write_text(json.dumps({"busy": 0.96}))
    lines = [{"step": 20, "waiting": 0.5}, {"step": 40, "waiting": 0.01}]
    (tmp_path / "siamese-speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = bars()
    assert found.returncode == 1
    told_of = [line.partition(": ")[2] for line in found.stdout.splitlines()]
    assert told_of == [
        "2.5, reached (bar 2)",
        "5, reached (bar 4)",
        "16, MISSED (bar 20)",
        "0.96, reached (bar 0.95)",
        "0.99, reached (bar 0.95)",
    ]
    assert len(json.loads((tmp_path / "bars.json").read_text())) == 5


PYTHON = r"""#!/bin/bash
# In place of python3: notes what it is asked, and leaves the files that the programs leave.
echo "$*" >>"$CALLS"
out=''
for argument in "$@"; do
    [ "$out" = next ] && out=$argument && break
    [ "$argument" = --out ] && out=next
done
case "$*" in
    *gpu_bars.py*) exec "$PYTHON" "$@" ;;
    *gpu_steps.py*) echo "no GPU, alas"; exit 3 ;;
    *"gpu_study.py backbone"*)
        mkdir -p "$out/backbone/samples"
        touch "$out/backbone/samples/step-9.png" "$out/backbone/speed.jsonl" "$out/backbone.json" ;;
    *"gpu_study.py arm"*)
        method=$3 && mkdir -p "$out/$method" "$out/$method-pairs/shards"
        touch "$out/$method.json" "$out/$method/log.jsonl" "$out/$method/speed.jsonl" "$out/$method-pairs/grid.png"
        touch "$out/$method-pairs/shards/pairs-0000-000000.tar" ;;
    *--out*) echo '[]' >"$out" ;;
esac
"""


def test_the_script_brings_back_what_its_parts_leave(tmp_path: Path) -> None:
    """With a stand-in for Python: what is called and copied, what fails stops nothing, and the time that is left."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(PYTHON)
    (tmp_path / "bin/python3").chmod(0o755)
    calls, out = tmp_path / "calls", tmp_path / "out"
    given = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls)}
    done = bash(SCRIPT, "--out", out, "--work", tmp_path / "work", **given)
    assert done.returncode == 0, done.stderr
    limits, _ = listed()
    assert {name for name in limits if f"== {name}: exit 0" in done.stdout} == limits.keys() - {"steps", "compile"}
    assert "== steps: exit 3" in done.stdout
    assert "no GPU, alas" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "mask-only-pairs-0000-000000.tar",
        "results.tgz",
        "siamese-pairs-0000-000000.tar",
    ]
    with tarfile.open(out / "results.tgz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {f"{name}.log" for name in limits} | {"parts.jsonl", "bars.json", "bars.txt", "step-9.png"} <= names
    assert {"siamese-grid.png", "siamese-speed.jsonl", "mask-only-log.jsonl", "speed.jsonl", "real.json"} <= names
    rows = [json.loads(line) for line in (tmp_path / "work/results/parts.jsonl").read_text().splitlines()]
    assert {row["part"]: row["status"] for row in rows} == {**dict.fromkeys(limits, 0), "steps": 3, "compile": 3}

    asked = calls.read_text().splitlines()
    assert sum("-m pip install" in line and "--no-index" in line for line in asked) == 1
    assert any("gpu_steps.py --size sd15 --batch 48 --device cuda" in line for line in asked)
    assert any("-m pytest" in line and "-m gpu" in line for line in asked)
    late = bash(SCRIPT, "--out", out, "--work", tmp_path / "work", "busy", DEADLINE="10", **given)
    assert "== busy: no time left" in late.stdout
    assert sum("-m pip install" in line for line in calls.read_text().splitlines()) == 1  # it is there already
