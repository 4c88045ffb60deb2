"""The page on a port of this computer: no other host is asked for anything, and none is told anything."""

import hmac
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.lock import hold
from siamese_diffusion.webapp.drawing import Painter
from siamese_diffusion.webapp.jobs import Job, Jobs
from siamese_diffusion.webapp.workspace import Workspace

LARGEST = 64 << 20
"""Bytes of a file that is uploaded, at most."""
SHORTEST = 8
"""Characters of a password, at least."""
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # gradio's templates are functions that it makes
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""What the browser may load: nothing from another host, whatever a library's page asks for."""

HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class SameHost:
    """Middleware that sends `POLICY` with every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, with_policy)


@contextmanager
def served(
    workspace: Workspace, device: str = "auto", port: int | None = None, password: str | None = None
) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        workspace: its folders.
        device: of the generator and the network.
        port: of this computer; None: a free one from 7860 on.
        password: asked for, and the page is then open to other computers; None: it is open to this one alone.

    Yields:
        The page's address.

    Raises:
        InputError: gradio is not installed, the port is taken, the password is short, or another process writes the
            workspace.
    """
    if password is not None and len(password) < SHORTEST:
        raise InputError(f"--listen: the password needs at least {SHORTEST} characters")
    cache = Path(tempfile.mkdtemp(prefix="siamese-diffusion-page-"))
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        with hold(workspace.out):
            workspace.open()
            jobs = Jobs()
            try:
                with _launched(workspace, jobs, cache, device, port, password) as address:
                    yield address
            finally:
                jobs.close()
    finally:
        shutil.rmtree(cache, ignore_errors=True)  # what was uploaded, and copies of what was shown


@contextmanager
def _launched(
    workspace: Workspace, jobs: Jobs, cache: Path, device: str, port: int | None, password: str | None
) -> Iterator[str]:
    try:
        import gradio  # noqa: F401
        from starlette.middleware import Middleware
    except ImportError as error:
        raise InputError(f"app: needs gradio ({reason(error)}); pip install 'siamese-diffusion[app]'") from None
    from siamese_diffusion.webapp.context import Context
    from siamese_diffusion.webapp.page import build, theme
    from siamese_diffusion.webapp.sketch import part

    context = Context(workspace, jobs, Painter(device, workspace.looking()), cache)
    page = build(context)
    _quieten()
    try:
        page.launch(
            server_name=LOOPBACK if password is None else EVERYWHERE,
            server_port=port,
            auth=None if password is None else _asks(password),
            auth_message="The password is the one that was set where the page was started; any name will do.",
            app_kwargs={"middleware": [Middleware(SameHost)], "docs_url": None, "redoc_url": None},
            max_file_size=LARGEST,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            footer_links=[],
            show_error=True,
            theme=theme(),
            css=part("page.css"),
        )
    except OSError as error:
        raise InputError(f"--port {port or 'free'}: cannot be served on ({reason(error)}); name another port") from None
    try:
        jobs.submit(f"start {secrets.token_hex(4)}", lambda job: _warm_up(context, job), "loading the model")
        yield f"http://{LOOPBACK if password is None else _own_name()}:{page.server_port}"
    finally:
        page.close(verbose=False)


def _warm_up(context: Any, job: Job) -> None:
    """Load what draws before it is asked for."""
    run = context.run_of(next(iter(context.workspace.models().values())))
    job.step(0, 0)
    context.painter.load(run)
    job.step(0, 0)
    context.painter.network()


def _asks(password: str) -> Callable[[str, str], bool]:
    return lambda name, given: hmac.compare_digest(given.encode(), password.encode())


def _own_name() -> str:
    import socket

    return socket.gethostname()


def _quieten() -> None:
    """A browser that leaves in the middle of an upload is no news, and nothing is worth a traceback in the terminal."""

    def brief(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            record.exc_info, record.exc_text = None, None
            record.msg, record.args = f"{type(error).__name__}: {reason(error)}", ()
            return type(error).__name__ != "ClientDisconnect"
        return True

    logger = logging.getLogger("uvicorn.error")
    if not any(getattr(each, "__name__", "") == "brief" for each in logger.filters):
        logger.addFilter(brief)
