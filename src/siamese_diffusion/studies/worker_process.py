"""A worker of a study: the command line in a process of its own, which ends with the process that began it.

Design note: standard input is a pipe that nobody writes to and whose other end the study holds. The system closes that
end when the study ends, however it ends: also when it is killed, which no signal handler sees. The worker then does
what an interrupt asks for: it finishes its step, saves its state and ends.
"""

import _thread
import os
import runpy
import signal
import sys
import threading
import time

PATIENCE = 120.0
"""Seconds that an interrupted stage has to finish its step and save."""

INTERRUPTED = 130


def end_with_parent(pipe: int) -> threading.Thread:
    """Interrupt this process once the other end of a pipe is closed, and end it where that does not help in time.

    Args:
        pipe: descriptor of the end to read.
    """

    main_thread = threading.main_thread().ident or 0

    def watch() -> None:
        while os.read(pipe, 1):
            pass
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main_thread, signal.SIGINT)  # wakes it up where it waits
        else:
            _thread.interrupt_main()
        time.sleep(PATIENCE)
        os._exit(INTERRUPTED)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def main() -> None:
    """Run the command line with this process's arguments."""
    end_with_parent(sys.stdin.fileno())
    runpy.run_module("siamese_diffusion", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
