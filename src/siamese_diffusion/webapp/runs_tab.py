"""The tab Runs: how trainings go, while they go, and the reports that commands wrote."""

from pathlib import Path
from typing import Any

import gradio as gr

from siamese_diffusion.claim import marked_by
from siamese_diffusion.errors import InputError
from siamese_diffusion.run_status import render, status
from siamese_diffusion.webapp.context import Context
from siamese_diffusion.webapp.parts import framed, note, plain
from siamese_diffusion.webapp.workspace import pick

EVERY = 5.0
"""Seconds between two looks at a run."""
GRIDS = 3
"""Sample grids that are shown, the newest first."""


class RunsTab:
    """Its components, and what happens when they are used."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.folders = self._find()
        if not self.folders:
            gr.HTML(
                note(
                    "There is no run to show. Start the page with --run FOLDER: a run of `train`, or the folder of "
                    "`run`, `study` or `demo`; or with --network or --scores."
                )
            )
            self.restored: list[Any] = []
            return
        self.folder = gr.Dropdown(
            list(self.folders), value=next(iter(self.folders)), label="Run", interactive=True, min_width=200
        )
        self.told = gr.HTML("", elem_id="run-told")
        with gr.Row():
            self.curves = gr.Image(
                show_label=False,
                interactive=False,
                buttons=["fullscreen"],
                format="png",
                visible=False,
                min_width=300,
                elem_id="curves",
            )
            self.grids = gr.Gallery(
                label="Samples while it trains: masks, what is drawn for them, real images",
                columns=1,
                elem_id="grids",
                height="auto",
                object_fit="contain",
                buttons=["fullscreen"],
                visible=False,
                format="png",
                min_width=300,
            )
        self.report = gr.HTML("", elem_id="run-report")
        self.stamp = gr.Textbox("", visible=False)
        self.timer = gr.Timer(EVERY)
        shown = [self.told, self.curves, self.grids, self.report, self.stamp]
        self.restored = shown
        self.folder.input(plain(self.on_folder), self.folder, shown, show_progress="hidden", trigger_mode="always_last")
        self.timer.tick(plain(self.on_tick), [self.folder, self.stamp], shown, show_progress="hidden", queue=False)

    def _find(self) -> dict[str, Path]:
        """Folders that commands of this program wrote, in those named at the start."""
        work = self.context.workspace
        found: dict[str, Path] = {}
        for root in (work.run, work.network, work.scores):
            if root is None:
                continue
            inner = [path.parent for path in sorted(root.rglob("inputs.json")) if "cache" not in path.parts]
            for folder in dict.fromkeys([root, *inner]):
                command = marked_by(folder)
                if command is not None and (_stamp(folder) or folder == root):
                    name = root.name if folder == root else f"{root.name}/{folder.relative_to(root).as_posix()}"
                    found.setdefault(f"{name} ({command})", folder)
        return found

    def on_load(self) -> dict[Any, Any]:
        return self.on_folder(next(iter(self.folders))) if self.folders else {}

    def on_folder(self, label: str) -> dict[Any, Any]:
        """What a folder holds now."""
        folder: Path = pick(self.folders, label, "run")
        found = status(folder)
        curves: Any = None
        try:
            picture = self.context.cache / "curves.png"
            status(folder, picture)
            curves = picture.read_bytes()
        except InputError:  # there are none
            pass
        grids = sorted((folder / "samples").glob("step-*.png"), reverse=True)[:GRIDS]
        report = folder / "report.html"
        lines = render(found).replace(f"{folder.parent}/", "").splitlines()
        return {
            self.told: "".join(note(line) for line in lines[:8]),
            self.curves: gr.update(value=_picture(curves), visible=curves is not None),
            self.grids: gr.update(value=[(_shown(path), path.stem) for path in grids], visible=bool(grids)),
            self.report: framed(report.read_text(encoding="utf-8")) if report.exists() else "",
            self.stamp: _stamp(folder),
        }

    def on_tick(self, label: str, stamp: str) -> Any:
        """The same where anything has changed."""
        folder: Path = pick(self.folders, label, "run")
        if _stamp(folder) == stamp:
            return {self.stamp: stamp}
        return self.on_folder(label)


def _stamp(folder: Path) -> str:
    """Changes when there is something new to show; empty where there never was anything."""
    files = [folder / "log.jsonl", folder / "report.html", folder / "samples", folder / "summary.json"]
    files += [folder / "metrics.json"]
    return " ".join(f"{path.name}:{path.stat().st_mtime_ns}" for path in files if path.exists())


def _picture(content: bytes | None) -> Any:
    import io

    from PIL import Image

    return None if content is None else Image.open(io.BytesIO(content)).convert("RGB")


def _shown(path: Path) -> Any:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as picture:
        scale = max(1, round(900 / picture.width))
        return picture.convert("RGB").resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
