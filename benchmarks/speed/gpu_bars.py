"""Which bars a run of `gpu.sh` reached, by the JSON of its parts.

    python benchmarks/speed/gpu_bars.py RESULTS

RESULTS is the unpacked `results.tgz`. A bar whose part did not come to it is "not measured". Exit status 1: one was
missed.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

AFTER = "after the gate"
Row = dict[str, Any]


def read(path: Path) -> Any:
    """JSON, or JSON lines; None where the part wrote none."""
    if not path.exists():
        return None
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def seconds(rows: Iterable[Row], **wanted: Any) -> dict[tuple[int, str], float]:
    """Of the steps that are so, by samples a pass and gate."""
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items()) and row["seconds"]]
    return {(row["micro"], row["gate"]): row["seconds"] for row in found}


def equal_steps(results: Path) -> float | None:
    """The least of plain over ours at the same precision and samples a pass, after the gate."""
    rows = (read(results / "steps.json") or {}).get("rows", [])
    ratios = []
    for precision in ("bf16", "fp32"):
        plain = seconds(rows, side="plain", precision=precision)
        ours = seconds(rows, side="ours", precision=precision, kept="all", channels_last=False)
        ratios += [plain[case] / ours[case] for case in plain.keys() & ours.keys() if case[1] == AFTER and case[0] > 1]
    return min(ratios, default=None)


def against_fp32(results: Path) -> float | None:
    """The fastest plain step in fp32 over our fastest in bf16, after the gate."""
    rows = (read(results / "steps.json") or {}).get("rows", [])
    plain = [s for case, s in seconds(rows, side="plain", precision="fp32").items() if case[1] == AFTER]
    ours = [s for case, s in seconds(rows, side="ours", precision="bf16").items() if case[1] == AFTER]
    return min(plain) / min(ours) if plain and ours else None


def sampling(results: Path) -> float | None:
    """Images a second of 12 steps, which cost no quality that was measured, over those of the original's way."""
    rows = read(results / "sampling.json") or []
    first = [row["images_per_second"] for row in rows[:1] if row["images_per_second"]]
    few = [
        row["images_per_second"] for row in rows[1:] if row["variant"].startswith("12 ") and row["images_per_second"]
    ]
    return max(few) / first[0] if first and few else None


def busy(results: Path) -> float | None:
    found = read(results / "busy.json")
    return None if found is None else float(found["busy"])


def not_waiting(results: Path) -> float | None:
    """The least share of the time in which a training of `medium` did not wait for batches, its first line left out."""
    rows = [row for path in results.glob("*speed.jsonl") for row in (read(path) or [])[1:]]
    return min((1 - row["waiting"] for row in rows), default=None)


BARS: dict[str, tuple[float, Callable[[Path], float | None]]] = {
    "a step at equal precision and batch, times as fast": (2.0, equal_steps),
    "a step in bf16 against fp32, times as fast": (4.0, against_fp32),
    "12 steps in batches against the original's way, times as many images": (20.0, sampling),
    "share of a step in which the card works": (0.95, busy),
    "share of a training in which it does not wait for batches": (0.95, not_waiting),
}


def main(results: Path) -> int:
    found = {name: measure(results) for name, (_, measure) in BARS.items()}
    for name, (bar, _) in BARS.items():
        value = found[name]
        said = "not measured" if value is None else f"{value:.3g}, {'reached' if value >= bar else 'MISSED'}"
        print(f"{name}: {said} (bar {bar:g})")
    (results / "bars.json").write_text(json.dumps(found, indent=1))
    return int(any(value is not None and value < BARS[name][0] for name, value in found.items()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
