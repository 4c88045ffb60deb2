"""The tab Segment: drop images, see the masks that a network draws, take them home as a zip."""

import html
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from siamese_diffusion.data.images import SUFFIXES
from siamese_diffusion.errors import InputError
from siamese_diffusion.webapp import seen
from siamese_diffusion.webapp.context import Context
from siamese_diffusion.webapp.jobs import Job
from siamese_diffusion.webapp.parts import followed, note, plain, plain_stream

HEADER = ["image", "width", "height", "lesion, % of the image", "parts"]


class SegmentTab:
    """Its components, and what happens when they are used."""

    def __init__(self, context: Context, tab: Any) -> None:
        self.context = context
        self.network = context.painter.network_run
        if self.network is None:
            gr.HTML(note("There is no network. Start the page with --network RUN, a finished run of `segment`."))
            self.restored: list[Any] = []
            return
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self.files = gr.File(
                    label="Drop images here",
                    file_count="multiple",
                    file_types=sorted(SUFFIXES),
                    height=170,
                    elem_id="uploads",
                )
                self.flips = gr.Checkbox(False, label="Average over four flips (slower, a little better)")
                self.threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label="Lesion from this probability on")
                self.run = gr.Button("Segment", variant="primary")
                self.progress = gr.HTML("", elem_id="segment-progress")
                self.refused = gr.HTML("", elem_id="refused")
            with gr.Column(scale=8, min_width=300, visible=False) as self.results:
                self.views = gr.Gallery(
                    show_label=False,
                    columns=4,
                    height="auto",
                    allow_preview=True,
                    buttons=["fullscreen"],
                    elem_id="views",
                    format="png",
                )
                self.table = gr.Dataframe(
                    headers=HEADER,
                    interactive=False,
                    wrap=True,
                    label="Click on a row to see its image",
                    max_height=260,
                    elem_id="seen-table",
                )
                with gr.Row():
                    self.zip = gr.DownloadButton("Download all as a zip", min_width=160)
                    self.name = gr.Textbox("masks", show_label=False, max_length=64, min_width=120, container=False)
                    self.save = gr.Button("Save in the workspace", min_width=160)
                self.saved = gr.HTML("")
        shown = [self.results, self.views, self.table, self.zip]
        self.restored = shown
        self.run.click(
            plain_stream(self.on_run),
            [tab, self.files, self.flips, self.threshold],
            [self.files, self.progress, self.refused, *shown],
            show_progress="hidden",
            concurrency_limit=None,
        )
        self.table.select(plain(self.on_row), tab, self.views, show_progress="hidden")
        self.save.click(plain(self.on_save), [tab, self.name], self.saved, show_progress="hidden")

    def on_load(self, tab: str) -> dict[Any, Any]:
        """What was seen before the page was loaded again."""
        return self._shown(tab) if self.network is not None else {}

    def on_run(self, tab: str, files: list[str] | None, flips: bool, threshold: float) -> Iterator[dict[Any, Any]]:
        """Look at the images; they are removed as soon as they were read."""
        if not files:
            raise InputError("drop an image first")
        paths = [Path(file) for file in files]
        out, refused = self.context.scratch(tab), list[str]()
        if not 0 < threshold < 1:
            raise InputError(f"{threshold}: the probability must be between 0 and 1")

        def work(job: Job) -> None:
            job.step(0, len(paths), "loading the network")
            network = self.context.painter.network()
            job.note = "looking at the images"
            refused.extend(seen.see_all(paths, network, out, threshold, bool(flips), job.step)[1])

        try:
            job = self.context.jobs.submit(self.context.workspace.desk(tab).name, work, "loading the network")
            yield {self.refused: ""}
            for progress in followed(self.context.jobs, job):
                yield {self.progress: progress}
        finally:
            for path in paths:
                with suppress(OSError):
                    path.unlink()
        lines = "".join(f"<p class='told warning'>{html.escape(line)}</p>" for line in refused)
        yield {self.files: None, self.progress: "", self.refused: lines, **self._shown(tab)}

    def _shown(self, tab: str) -> dict[Any, Any]:
        out = self.context.scratch(tab)
        rows = seen.table(out)
        if not rows:
            return {self.results: gr.update(visible=False)}
        cells = [
            [
                row["name"],
                int(row["width"]),
                int(row["height"]),
                round(100 * float(row["share"]), 2),
                int(row["components"]),
            ]
            for row in rows
        ]
        return {
            self.results: gr.update(visible=True),
            self.views: seen.views(out, rows[0]["name"]),
            self.table: cells,
            self.zip: str(seen.packed(out, out / "masks.zip")),
        }

    def on_row(self, tab: str, chosen: gr.SelectData) -> Any:
        out = self.context.scratch(tab)
        rows = seen.table(out)
        row = int(chosen.index[0])
        if row >= len(rows):
            raise InputError("this image is not there any more; drop it again")
        return seen.views(out, rows[row]["name"])

    def on_save(self, tab: str, name: str) -> str:
        target = self.context.workspace.new_predictions(name)
        count = seen.saved(self.context.scratch(tab), target)
        return f"<p class='told'>{count} masks saved in <code>{html.escape(str(target.resolve()))}</code></p>"
