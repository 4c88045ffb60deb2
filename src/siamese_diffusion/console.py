"""What commands share: common options, and how a call ends, with its result printed or with one line and a status."""

import errno
import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from siamese_diffusion.errors import InputError
from siamese_diffusion.interrupt import undisguised

if TYPE_CHECKING:
    from siamese_diffusion.config import Config

ConfigFile = Annotated[str | None, typer.Option("--config", help="A preset's name or a YAML file of settings.")]
Setting = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Data = Annotated[Path, typer.Option(help="Folder of image-mask pairs.")]


def to_write(value: str | Path) -> Path:
    """A folder or file to write; an empty name, as of a variable that is not set, would mean the current folder."""
    if not str(value).strip():
        _fail("--out '': is empty; name what is to be written")
    return Path(value)


Out = Annotated[Path, typer.Option(help="Folder to write.", parser=to_write, metavar="PATH")]

OutOrNone = Annotated[Path | None, typer.Option(help="Folder to write.", parser=to_write, metavar="PATH")]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Shown:
    """A result with a text of its own for the terminal; where that is empty, nothing is printed."""

    result: Any
    text: str
    status: int = 0
    """Exit status."""


def command(app: typer.Typer, name: str = "", goes_on: bool | str = False) -> Callable[[Function], Function]:
    """Make a function a command of `app`: its signature with `--json` is the command line, its docstring the help.

    What it returns is printed, and what can go wrong is one line and an exit status: see `run`.

    Args:
        app: gets the command; the function itself stays what it is.
        name: the command's; default: the function's.
        goes_on: without `--resume`, the same command goes on where an interrupted one stopped; or the command that
            does, with options of the interrupted one in braces.
    """

    def register(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        json_option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
        resumed = "the same command with --resume goes on" if "resume" in signature.parameters else ""
        again = goes_on if isinstance(goes_on, str) else "the same command goes on" if goes_on else resumed

        @functools.wraps(function)
        def call(*, as_json: bool, **arguments: Any) -> None:
            run(lambda: function(**arguments), as_json, again.format(**arguments))

        options = [*signature.parameters.values(), json_option]
        call.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
        app.command(name or None)(call)
        return function

    return register


def run(call: Callable[[], Any], as_json: bool, again: str = "") -> None:
    """Call, print the result, and turn what can go wrong into one line and an exit status.

    Args:
        call: what it returns is printed: `Shown` as it says, a mapping as a line for each entry.
        as_json: print the result as one JSON object instead.
        again: what to do after an interruption.

    Raises:
        SystemExit: 2 after an error, 130 after an interruption, 141 where the reader of the output has gone.
    """
    threading.excepthook = _thread_failed
    try:
        with undisguised():
            result = call()
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(f"interrupted; {again}" if again else "interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except MemoryError:
        _fail("out of memory: lower data.resolution or the batch_size of this command")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else "--out: " if error.errno == errno.ENOSPC else ""
        _fail(f"{where}{error.strerror or error}")
    except RuntimeError as error:
        if lost_process(error):
            more = f"; {again}" if again else ""
            _fail(f"another process of this run has ended, and its own words say why{more}")
        if "out of memory" not in str(error):
            raise
        _fail("out of memory on the device: set train.micro_batch (or sample.batch_size) lower")
    else:
        _print(_text(result, as_json))
        if isinstance(result, Shown) and result.status:
            raise SystemExit(result.status)


def _thread_failed(failure: "threading.ExceptHookArgs") -> None:
    """A thread of TensorBoard's that cannot write hands its failure to whoever writes next, which is told in one line;
    its own traceback would come before that."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def lost_process(error: RuntimeError) -> bool:
    """Whether what failed is a message to, or from, another process of the same run (a rank)."""
    distributed = sys.modules.get("torch.distributed")  # not imported for commands that do without torch
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return False
    words = (
        "gloo",
        "Connection closed by peer",
        "Connection reset by peer",
        "NCCL",
        "Broken pipe",
        "Timed out waiting",
    )
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in words)


def load_settings(source: str | None, settings: list[str] | None, **options: dict[str, Any]) -> "Config":
    """The settings of `--config` and `--set`, with a command's own options put over them, by section.

    All are checked here, before anything heavy is imported.
    """
    from siamese_diffusion.config import load_config, update

    config = load_config(source, settings)
    for section, entries in options.items():
        config = update(config, section, **entries)
    return config


def require_there(**read: Path | list[Path] | None) -> None:
    """Refuse a file or folder that is to be read and is not there, before anything heavy is imported.

    Raises:
        InputError: one is not there; the line names its option, and what lies there of a similar name.
    """
    from siamese_diffusion.hub import missing

    for option, given in read.items():
        for path in [given] if isinstance(given, Path) else given or []:
            if not os.path.lexists(path):
                raise missing(str(path), f"--{option.replace('_', '-')}")


def ask_password(variable: str) -> str | None:
    """A password from an environment variable, else typed twice in a terminal; None without either."""
    if os.environ.get(variable):
        return os.environ[variable]
    if not sys.stdin.isatty():
        return None
    given: str = typer.prompt("Password for the page", hide_input=True, confirmation_prompt=True, err=True)
    return given


def quiet() -> None:
    """One progress bar is enough: the libraries' own bars and notes about loading are for their developers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _text(result: Any, as_json: bool) -> str:
    if as_json:
        from siamese_diffusion.files import to_json

        return to_json(result.result if isinstance(result, Shown) else result)
    if isinstance(result, Shown):
        return result.text
    return "\n".join(f"{key}: {_round(value)}" for key, value in result.items())


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_round(entry)}" for key, entry in value.items())
    return value


def _print(text: str) -> None:
    if not text:
        return
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer would be written, and fail once more, as the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as of `| head`, which has read enough
            raise SystemExit(141) from None  # what a shell says of a program that the signal SIGPIPE ended
        _fail(f"standard output: {error.strerror}")


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
