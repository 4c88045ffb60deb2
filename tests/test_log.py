"""The log of a run: a line it cannot write is an error, TensorBoard's too."""

import errno
import threading
from pathlib import Path

import pytest

from siamese_diffusion.log import Log


def test_what_the_last_line_cannot_write_is_raised_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard writes in a thread, and its `close` forgets what failed there."""
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    log = Log(tmp_path, 0)
    log.board.flush()
    worker = log.board._get_file_writer().event_writer._async_writer._worker

    def full(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker._record_writer, "write", full)
    log.write(1, {"total": 0.5})
    worker.join(30)
    with pytest.raises(OSError, match="No space left"):
        log.close()
