"""The page of a whole job, `report.html`: what each stage says, the pictures to look at, and what to do next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siamese_diffusion.config import Config
from siamese_diffusion.report import Figure, Section, Table, Verdict, Word, write_report
from siamese_diffusion.segmentation.page import duration

LOOKED_AT = {
    "train/report.html": "training: the last grid, the curves, whether masks are seen",
    "evaluate/report.html": "the drawn images: good, obedient, new? with the rules behind each verdict",
    "segment/report.html": "the networks: figures, the images that gained and lost most, curves",
}
"""Pages of the stages, and what is on them."""


def write_job_page(out: Path, result: Mapping[str, Any], data: Path, config: Config) -> None:
    """Write `report.html`.

    Args:
        out: the job's folder, with the stages' in it.
        result: what `run` returns.
        data: the pairs that were used.
        config: the settings.
    """
    words: dict[str, Word] = {"good": "good", "doubtful": "doubtful", "not good": "not good"}
    verdicts = [
        Verdict(each["question"], words.get(each["word"], "cannot tell"), each["because"], "")
        for each in result["verdicts"]
    ]
    pairs = result["pairs"]
    pictures = [
        Figure(path.read_bytes(), caption)
        for path, caption in (
            (out / "sample" / "grid.png", "Masks, and the images that were drawn for them."),
            (
                out / "evaluate" / "worst.png",
                "Drawn images that obey least, then most. Green: the mask asked for; magenta: what the judge sees.",
            ),
        )
        if path.exists()
    ]
    pages = [[name, said] for name, said in LOOKED_AT.items() if (out / name).exists()]
    times = [[name, duration(seconds)] for name, seconds in result["stages"].items()]
    rows = [
        ["data", str(data)],
        ["real pairs trained on", str(pairs["real"])],
        ["pairs drawn", str(pairs["drawn"])],
        ["pairs kept", f"{pairs['kept']} (in filter/)" if pairs["kept"] else "none"],
        ["backbone and method", f"{config.method.name}, {config.data.resolution} px"],
        [
            "network",
            f"{config.segment.network}{'' if config.segment.encoder is None else f', {config.segment.encoder}'}",
        ],
        ["the network to use", result["network"]],
    ]
    sections = [
        Section("What was drawn?", "Look at these before you believe a figure.", figures=pictures),
        Section(
            "Where is the rest?",
            "Each stage has a folder of its own, and these have a page.",
            tables=[Table(["page", "what is on it"], pages, words=(1,))],
        ),
        Section(
            "What was run",
            "All settings are in config.yaml.",
            tables=[
                Table(["", ""], rows, words=(1,)),
                Table(["stage", "took"], times, "In the call that finished it.", title="Time"),
            ],
        ),
    ]
    lead = (
        f"From {pairs['real']} real pairs {pairs['drawn']} were drawn and {pairs['kept']} kept. The first verdict says "
        "whether they help on this data; the rules behind the others are on the pages of their stages."
    )
    write_report(out / "report.html", "Do synthetic pairs help here?", lead, sections, verdicts, "run")
