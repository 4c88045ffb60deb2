"""What the tabs share: errors as one line, the progress of jobs, and reports within the page."""

import functools
import html
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gradio as gr

from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.webapp.jobs import Job, Jobs

Function = TypeVar("Function", bound=Callable[..., Any])


def plain(function: Function) -> Function:
    """A handler whose errors are one line on the page."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except gr.Error:
            raise
        except Exception as error:
            raise told(error) from None

    return call  # type: ignore[return-value]


def plain_stream(function: Function) -> Function:
    """The same of a handler that answers bit by bit."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except gr.Error:
            raise
        except Exception as error:
            raise told(error) from None

    return call  # type: ignore[return-value]


def told(error: Exception) -> gr.Error:
    """The line that the page shows; of a mistake of ours the terminal gets all of it."""
    if isinstance(error, InputError):
        message = " ".join(str(error).split())
    else:
        traceback.print_exc(file=sys.stderr)
        message = f"{type(error).__name__}: {reason(error)}"
    return failure(message)


def failure(message: str) -> gr.Error:
    """A line that stays until it is read."""
    return gr.Error(html.escape(message), duration=None, title="This did not work", print_exception=False)


def waiting(jobs: Jobs, job: Job | None) -> str:
    """How far a job is, for a `gr.HTML`."""
    if job is None:
        return ""
    if job.state == "waiting":
        ahead = jobs.ahead(job)
        return _progress(f"In line: {ahead} {'job' if ahead == 1 else 'jobs'} before this one", None)
    if job.state == "running":
        share = job.done / job.of if job.of else None
        count = f" (step {job.done} of {job.of})" if job.of else ""
        return _progress(f"{job.note.capitalize()}{count}", share)
    if job.state == "stopped":
        return "<p class='told'>Stopped.</p>"
    return ""


def _progress(text: str, share: float | None) -> str:
    value = "" if share is None else f" value='{share:.4f}'"
    return f"<div class='told'><label>{html.escape(text)}<progress max='1'{value}></progress></label></div>"


def followed(jobs: Jobs, job: Job) -> Iterator[str]:
    """How far a job is, until it ends.

    Raises:
        gr.Error: it failed.
    """
    while job.open:
        yield waiting(jobs, job)
        jobs.wait(0.4)
    if job.state == "failed":
        raise failure(job.note)
    yield waiting(jobs, job)


def framed(page: str) -> str:
    """A report of ours within the page; nothing in it runs, and it asks for nothing."""
    return f"<iframe class='report' sandbox='' title='Report' srcdoc='{html.escape(page, quote=True)}'></iframe>"


def note(text: str) -> str:
    """A line for a `gr.HTML`."""
    return f"<p class='told'>{html.escape(text)}</p>" if text else ""
