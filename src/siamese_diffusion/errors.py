"""The one exception a user's mistake raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """The input is wrong. The message is one line that names the file or setting and says what would be right.

    The command line prints it without a traceback and exits with status 2. What a message quotes of a file may be long;
    of more than 2000 characters the middle is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= 2000 else f"{message[:1400]} ... {message[-500:]}")


class WithheldError(InputError):
    """A file is there and the system does not give its content: a lack of permission, a failing disk.

    Nothing is known to be wrong with what the file holds, and nobody should be told to do without it.
    """


def reason(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return brief(lines[0], 300) if lines else type(error).__name__


def brief(text: str, longest: int = 80) -> str:
    """`text`, cut where it is too long for a line."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn whatever a library raises over foreign content into one line that begins with `what`.

    For use around the reading alone: an own mistake inside would be told as the user's. What the user or the system
    asks for (`KeyboardInterrupt`, `SystemExit`) passes, and so does a lack of memory.

    Raises:
        InputError: the block raised; `WithheldError` where the system did not give the content.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:  # libraries use it for damaged content too
            raise InputError(f"{what} ({reason(error)})") from error
        raise system_refusal(what, error) from error
    except RecursionError as error:
        raise InputError(f"{what} (it is nested too deeply)") from error
    except Exception as error:
        raise InputError(f"{what} ({reason(error)})") from error


def system_refusal(what: str, error: OSError) -> InputError:
    """The line for a call of the operating system that failed."""
    missing = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    kind = InputError if missing else WithheldError
    return kind(f"{what} ({error.strerror or reason(error)})")


def printable(path: Path | str) -> str:
    """A path as text that every file and terminal takes: what is not Unicode in it is shown as \\udcNN."""
    return str(path).encode("utf-8", "backslashreplace").decode()
