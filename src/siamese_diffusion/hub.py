"""The Hugging Face hub: what is a hub id and what a path, and what is fetched from there or pushed to it.

Design note: a name is told without asking the hub, so that a misspelt path is one line at once and not a minute's wait.
Only data and tensors are fetched (`SAFE`), into the hub's own cache; the folder is then read as any other. Whoever is
not the owner of a name is refused by the hub, in whose words that is said.
"""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.interrupt import undisguised
from siamese_diffusion.progress import notify

PREFIX = "hf://"
"""Says that what follows is a hub id, where a folder might be meant."""

Kind = Literal["model", "dataset"]

WEIGHTS = (".ckpt", ".safetensors", ".pth", ".pt")
"""Endings of files that hold weights."""

SAFE = ("*.json", "*.txt", "*.yaml", "*.md", "*diffusion_pytorch_model.safetensors", "*/model.safetensors")
"""What a model is made of: configurations, words, tensors. No half-precision twins, no pickles, no code."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(rf"({_ID.pattern})/(.+)")


def repository(source: str | os.PathLike[str]) -> str | None:
    """The hub id `OWNER/NAME` that a source means; None where it means a path.

    What is there on this disk is a path, and so is what lies in a folder that is there, but for `hf://OWNER/NAME`.
    """
    text = os.fspath(source)
    if text.startswith(PREFIX):
        return text.removeprefix(PREFIX)
    plain = _ID.fullmatch(text) and Path(text).suffix not in WEIGHTS
    return text if plain and not Path(text).parent.exists() else None


def require_source(
    source: str | os.PathLike[str], option: str, words: Sequence[str] = (), what: str = "folder"
) -> None:
    """Refuse what is neither one of `words`, nor on this disk, nor can be a hub id; nobody is asked for it.

    Args:
        source: as the user wrote it.
        option: the option that holds it.
        words: names that mean something of their own.
        what: what is looked for on the disk.

    Raises:
        InputError: it is none of them.
    """
    text = os.fspath(source)
    if text in words or Path(text).exists():
        return
    if not _ID.fullmatch(repository(text) or ""):
        raise missing(text, option, words, what)


def missing(text: str, option: str, words: Sequence[str] = (), what: str = "file or folder") -> InputError:
    """The line for what is not there, with the name that may be meant: see `require_source`."""
    close = difflib.get_close_matches(text, [*words, *_beside(text)], n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    if text.startswith(PREFIX):
        return InputError(f"{option} {text}: is no hub id ({PREFIX}OWNER/NAME)")
    instead = f"; else one of {', '.join(words)}, or a hub id (OWNER/NAME)" if words else ""
    if words and _ID.fullmatch(text):  # what it would mean without the folder beside it
        instead = f"; on the hub it is {PREFIX}{text}"
    return InputError(f"{option} {text}: no such {what}{meant or instead}")


def _beside(text: str) -> list[str]:
    """What lies where `text` would."""
    folder = Path(text).parent
    try:
        return [str(folder / path.name) for path in folder.iterdir() if not path.name.startswith(".")][:1000]
    except OSError:
        return []


def fetch(repo: str, option: str, kind: Kind = "model", patterns: Sequence[str] = SAFE) -> Path:
    """The files of a repository that match `patterns`, in the hub's cache; what is there is not fetched again.

    Args:
        repo: OWNER/NAME.
        option: the option that names it, for errors.
        kind: of the repository.
        patterns: of the files.

    Raises:
        InputError: there is no such repository, it is not ours to read, the hub is out of reach, or nothing matches.
    """
    from huggingface_hub import snapshot_download

    with fast_failure(), _told(f"{option} {repo}"), undisguised():
        folder = snapshot_download(
            repo,
            repo_type=kind,
            allow_patterns=list(patterns),
            cache_dir=os.environ.get("HF_HUB_CACHE"),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    if not any(path.is_file() for path in Path(folder).rglob("*")):
        raise InputError(f"{option} {repo}: its repository on the hub has no {', '.join(patterns)}")
    return Path(folder)


def fetch_weights(source: str, option: str) -> Path | None:
    """One file of weights: `OWNER/NAME/FILE`, or `OWNER/NAME` where that holds a single one.

    Returns:
        the file in the hub's cache; None where `source` means a path.

    Raises:
        InputError: as `fetch`; or the repository has several such files, or none (the line lists them).
    """
    text = source.removeprefix(PREFIX)
    if not source.startswith(PREFIX) and (Path(source).exists() or Path(text.partition("/")[0]).exists()):
        return None
    inside = _FILE.fullmatch(text)
    repo, file = (inside[1], inside[2]) if inside else (repository(source), None)
    if repo is None:
        return None
    from huggingface_hub import HfApi, hf_hub_download

    endpoint, cache = os.environ.get("HF_ENDPOINT"), os.environ.get("HF_HUB_CACHE")
    with fast_failure(), _told(f"{option} {source}"), undisguised():
        if file is None:
            names = HfApi(endpoint=endpoint).list_repo_files(repo)
            parts = [name for name in names if name.endswith((".safetensors", ".bin")) and "model." in name]
            found = [name for name in names if Path(name).suffix in WEIGHTS and name not in parts]
            if len(found) != 1:
                what = f"name one of them as {repo}/FILE: {', '.join(found)}" if found else "it has none"
                what += "; it is a pipeline, which `sample --checkpoint` takes" if parts and not found else ""
                raise InputError(f"{option} {source}: takes one file of weights ({', '.join(WEIGHTS)}); {what}")
            file = found[0]
        notify(f"{option}: {file} of {repo}, from the hub")
        return Path(hf_hub_download(repo, file, endpoint=endpoint, cache_dir=cache))


def push(folder: Path, repo: str, kind: Kind, public: bool = False, option: str = "--push") -> str:
    """Upload a folder to a repository of the user, which is made where it is not there.

    Args:
        folder: what to upload.
        repo: OWNER/NAME, or NAME of one's own.
        kind: of the repository.
        public: everybody may read it; else the owner alone.
        option: for errors.

    Returns:
        Its address.

    Raises:
        InputError: nobody is logged in, the repository is not the user's, it is public and `public` is false, or the
            hub is out of reach.
    """
    from huggingface_hub import HfApi

    repo = repo.removeprefix(PREFIX)
    if not re.fullmatch(rf"{_ID.pattern}|[A-Za-z0-9][\w.-]*", repo):
        raise InputError(f"{option} {repo}: is no name of a repository (OWNER/NAME)")
    with _told(f"{option} {repo}"), undisguised():
        hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        if "/" not in repo:
            repo = f"{hub.whoami()['name']}/{repo}"
        made = hub.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        if not public and not hub.repo_info(repo, repo_type=kind).private:
            raise InputError(
                f"{option} {repo}: is there already and everybody can read it; --public says that you mean that"
            )
        hub.upload_folder(
            repo_id=repo, repo_type=kind, folder_path=folder, commit_message="Pushed by siamese-diffusion"
        )
    return str(made)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What the hub's client raises, in one line that says what to do.

    Raises:
        InputError: the block raised.
    """
    from huggingface_hub import errors

    try:
        yield
    except InputError:
        raise
    except errors.LocalTokenNotFoundError:
        raise InputError(f"{what}: nobody is logged in to the hub; `hf auth login`, or set HF_TOKEN") from None
    except errors.GatedRepoError:
        raise InputError(f"{what}: the hub wants its terms accepted, on its page; then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{what}: the hub has no such repository, or it is not yours to read (`hf auth login`, or HF_TOKEN)"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise InputError(f"{what}: the hub cannot be reached, and its cache does not hold it") from None
    except errors.HfHubHTTPError as error:
        told = {
            401: "nobody is logged in to the hub; `hf auth login`, or set HF_TOKEN",
            403: "whoever is logged in to the hub may not do that; `hf auth whoami` says who",
        }
        status = getattr(error.response, "status_code", None)
        raise InputError(f"{what}: {told.get(status or 0, f'the hub says no: {reason(error)}')}") from None
    except Exception as error:  # the HTTP library, and with it the exception, differs by version of the hub's client
        told_by = f"{what}: the hub cannot be reached, or does not answer as it should"
        raise InputError(f"{told_by} ({reason(error)})") from error


@contextmanager
def fast_failure() -> Iterator[None]:
    """Where the hub cannot be reached, look in its cache only, instead of trying for more than a minute."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            get_session().head(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT, timeout=10)
    except Exception:  # the HTTP library, and with it the exception, differs by version of the hub's client
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
