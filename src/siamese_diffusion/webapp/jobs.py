"""Work on the device, one piece at a time: who asks while another is served waits in line, is told so, and may leave.

Design note: a job belongs to the process and not to the browser that asked for it. A page that is loaded anew finds its
job where it is, and what the job has finished lies in the workspace.
"""

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from siamese_diffusion.errors import InputError, reason

State = Literal["waiting", "running", "done", "stopped", "failed"]


class StoppedError(Exception):
    """The job was asked to stop, and does at its next step."""


@dataclass
class Job:
    """A piece of work, and how far it is."""

    owner: str
    """Whose: a browser's tab."""
    work: Callable[["Job"], None] = field(repr=False)
    state: State = "waiting"
    done: int = 0
    of: int = 0
    note: str = ""
    """What it is doing, in words; of a failed one why, in one line."""
    asked_to_stop: bool = False

    def step(self, done: int, of: int, note: str = "") -> None:
        """Say how far the work is.

        Raises:
            StoppedError: it was asked to stop.
        """
        self.done, self.of, self.note = done, of, note or self.note
        if self.asked_to_stop:
            raise StoppedError

    @property
    def open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")


class Jobs:
    """The line, served by one thread."""

    def __init__(self) -> None:
        self._line: deque[Job] = deque()
        self._latest: dict[str, Job] = {}
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, owner: str, work: Callable[[Job], None], note: str = "") -> Job:
        """Put work at the end of the line.

        Raises:
            InputError: the owner has a job in the line already.
        """
        with self._changed:
            before = self._latest.get(owner)
            if before is not None and before.open:
                raise InputError("this page has a job in the line already; wait for it, or stop it")
            job = Job(owner, work, note=note)
            self._line.append(job)
            self._latest[owner] = job
            self._changed.notify_all()
            return job

    def latest(self, owner: str) -> Job | None:
        """The owner's last job."""
        return self._latest.get(owner)

    def ahead(self, job: Job) -> int:
        """How many jobs are served before this one, the running one included."""
        with self._changed:
            if job not in self._line:
                return 0
            return self._line.index(job) + (self._running is not None)

    def stop(self, owner: str) -> bool:
        """Ask the owner's job to stop: one that waits leaves the line, one that runs ends at its next step."""
        with self._changed:
            job = self._latest.get(owner)
            if job is None or not job.open:
                return False
            job.asked_to_stop = True
            if job in self._line:
                self._line.remove(job)
                job.state = "stopped"
            self._changed.notify_all()
            return True

    def wait(self, seconds: float) -> None:
        """Until something begins or ends, or the time is over."""
        with self._changed:
            self._changed.wait(seconds)

    def close(self, seconds: float = 10.0) -> None:
        """Stop everything, and wait for the job that runs to reach its next step."""
        with self._changed:
            self._closed = True
            for job in [*self._line, *([self._running] if self._running else [])]:
                job.asked_to_stop = True
            for job in self._line:
                job.state = "stopped"
            self._line.clear()
            self._changed.notify_all()
        self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._line and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._running = self._line.popleft()
                job.state = "running"
                self._changed.notify_all()
            state, note = _run(job)
            with self._changed:
                job.state, job.note = state, note
                self._running = None
                self._changed.notify_all()


def _run(job: Job) -> tuple[State, str]:
    """How the job ended, and what there is to say of it."""
    try:
        job.work(job)
    except StoppedError:
        return "stopped", job.note
    except InputError as error:
        return "failed", " ".join(str(error).split())
    except Exception as error:  # a mistake of ours: the page gets a line, the terminal all of it
        traceback.print_exc(file=sys.stderr)
        return "failed", f"{type(error).__name__}: {reason(error)}"
    return "done", job.note
