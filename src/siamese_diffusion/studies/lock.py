"""The lock on a stage: one process works on it at a time, whichever study it belongs to.

Design note: the lock is on a file in the stage's folder. The process that does the work holds it, and the system drops
it when that process ends, however it ends. So two studies may share a folder, a killed one leaves nothing to clean up,
and a stage whose parent was killed is waited for.
"""

import sys
from pathlib import Path

from siamese_diffusion.studies.stages import Stage


class StageLock:
    """The right to work on a stage, until `release` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".lock").open("a")

    @classmethod
    def take(cls, stage: Stage) -> "StageLock | None":
        """Lock a stage; None where another process has it."""
        lock = cls(stage.folder)
        if sys.platform != "win32":  # there, one study at a time is up to the user
            import fcntl

            try:
                fcntl.flock(lock._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock._file.close()
                return None
        return lock

    @property
    def descriptor(self) -> int:
        """To be inherited by a process that does the work, so that the lock lives as long as it."""
        return self._file.fileno()

    def release(self) -> None:
        self._file.close()
