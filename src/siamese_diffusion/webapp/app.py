"""The `app` command: a page on this computer to draw, look, judge and keep."""

import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from siamese_diffusion.arguments import StrPath, to_path, to_path_or_none, to_paths
from siamese_diffusion.errors import InputError
from siamese_diffusion.interrupt import STOPS
from siamese_diffusion.progress import notify

OUT = Path("siamese-diffusion-app")
"""The workspace where none is named."""


def app(
    run: StrPath | None = None,
    data: StrPath | None = None,
    pairs: StrPath | Sequence[StrPath] = (),
    network: StrPath | None = None,
    scores: StrPath | None = None,
    out: StrPath = OUT,
    listen: bool = False,
    password: str | None = None,
    port: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Serve the page until the process is asked to stop.

    Args:
        run: a run of `train`, or a folder with runs in it (of `demo`, `run`, `study`); default: the phantom model that
            ships with the package.
        data: folder of real pairs; default: phantoms.
        pairs: folders of synthetic pairs to look through.
        network: a run of `segment`, which looks at every image; default: with the phantom model one that ships too.
        scores: folder that `evaluate` wrote of `pairs`.
        out: folder that the page writes: drawings of each browser tab, saved pairs, ratings.
        listen: serve other computers too, and ask for the password.
        password: for `listen`, at least 8 characters.
        port: of the page; default: a free one.
        device: "auto", "cpu", "cuda" ...

    Returns:
        `url`, where the page was, and `out`.

    Raises:
        InputError: a folder is not there, `out` is in use, gradio is not installed, or `listen` without a password.
    """
    if listen and not password:
        raise InputError("--listen: needs a password, asked for in a terminal or taken from SIAMESE_DIFFUSION_PASSWORD")
    from siamese_diffusion.webapp.serving import served
    from siamese_diffusion.webapp.workspace import Workspace

    out = to_path(out)
    workspace = Workspace(
        out,
        to_path_or_none(run, "--run"),
        to_path_or_none(data, "--data"),
        to_paths(pairs, "--pairs"),
        to_path_or_none(network, "--network"),
        to_path_or_none(scores, "--scores"),
    )
    stop = threading.Event()
    before: dict[int, Any] = {}
    with suppress(ValueError):  # not the main thread: whoever runs this one handles signals
        before = {number: signal.signal(number, lambda *_: stop.set()) for number in STOPS}
    try:
        with served(workspace, device, port, password if listen else None) as url:
            notify(f"{url}  (Ctrl-C ends it; what you keep is in {out})")
            while not stop.wait(1.0):
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return {"url": url, "out": str(out)}
