"""The tab Data: what `check` finds in a folder, with pictures."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from siamese_diffusion.webapp.context import Context
from siamese_diffusion.webapp.jobs import Job
from siamese_diffusion.webapp.parts import followed, framed, note, plain, plain_stream
from siamese_diffusion.webapp.workspace import pick


class DataTab:
    """Its components, and what happens when they are used."""

    def __init__(self, context: Context, tab: Any) -> None:
        self.context = context
        with gr.Row():
            self.folder = gr.Dropdown([], label="Folder", interactive=True, scale=3, min_width=200)
            self.again = gr.Button("Check", variant="primary", scale=1, min_width=120)
        self.progress = gr.HTML("")
        self.report = gr.HTML("", elem_id="check-report")
        self.restored = [self.folder, self.report]
        self.again.click(
            plain_stream(self.on_check),
            [tab, self.folder],
            [self.progress, self.report],
            show_progress="hidden",
            concurrency_limit=None,
        )
        self.folder.input(
            plain(self.on_folder), self.folder, self.report, show_progress="hidden", trigger_mode="always_last"
        )

    def folders(self) -> dict[str, Path]:
        """What can be checked."""
        work = self.context.workspace
        return {**work.data, **work.pair_folders()}

    def on_load(self) -> dict[Any, Any]:
        folders = self.folders()
        first = next(iter(folders), None)
        report = note("Start the page with --data FOLDER.") if first is None else self.on_folder(first)
        return {self.folder: gr.update(choices=list(folders), value=first), self.report: report}

    def on_folder(self, label: str) -> str:
        """The page of an earlier check."""
        page = self._page(pick(self.folders(), label, "folder"))
        if page.exists():
            return framed(page.read_text(encoding="utf-8"))
        return note(
            "Check reads every file and tells how the masks are read, what sizes and lesions there are, what is "
            "damaged, and what training and test images share."
        )

    def on_check(self, tab: str, label: str) -> Iterator[dict[Any, Any]]:
        folder: Path = pick(self.folders(), label, "folder")
        page = self._page(folder)

        def work(job: Job) -> None:
            from siamese_diffusion.data.check import check

            job.step(0, 0)
            page.parent.mkdir(exist_ok=True)
            check(folder, report=page)

        job = self.context.jobs.submit(self.context.workspace.desk(tab).name, work, "reading every file")
        for progress in followed(self.context.jobs, job):
            yield {self.progress: progress}
        yield {self.progress: "", self.report: self.on_folder(label)}

    def _page(self, folder: Path) -> Path:
        key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        return self.context.workspace.out / "checks" / f"{key}.html"
