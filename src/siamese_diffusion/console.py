"""What every command shares: its common options, and how a call ends: its result printed, or one line and an exit status."""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamese_diffusion.errors import InputError

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


def load_settings(source: str | None, settings: list[str] | None) -> "Config":
    """The settings of `--config` and `--set`."""
    from siamese_diffusion.config import load_config

    return load_config(source, settings)


def run(call: Callable[[], Any], as_json: bool, show: bool = True, again: str = "") -> None:
    """Call, print the result, and turn what can go wrong into one line and an exit status.

    Args:
        call: the command; what it takes of the command line is in its closure.
        as_json: print one JSON object.
        show: print the result where that is not asked for.
        again: what an interrupted call is to be followed by; default: `--resume`, where the command has that option.
    """
    if not again and "resume" in getattr(call, "__code__", run.__code__).co_freevars:
        again = "the same command with --resume goes on"
    try:
        result = call()
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted" + (f"; {again}" if again else ""), file=sys.stderr)
        raise SystemExit(130) from None
    except MemoryError:
        _fail("out of memory: lower data.resolution or the batch_size of this command")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else "--out: " if error.errno == errno.ENOSPC else ""
        _fail(f"{where}{error.strerror or error}")
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        _fail("out of memory on the device: set train.micro_batch (or sample.batch_size) lower")
    else:
        if as_json:
            print(json.dumps(result, allow_nan=False))
        elif show:
            for key, value in result.items():
                print(f"{key}: {_round(value)}")


def quiet() -> None:
    """One progress bar is enough: the libraries' own bars and notes about loading are for their developers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_round(entry)}" for key, entry in value.items())
    return value


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
