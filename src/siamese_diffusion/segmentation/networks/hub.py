"""Weights from the Hugging Face hub: no long wait where it is out of reach, and no code from a file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fast_failure() -> Iterator[None]:
    """Where the hub cannot be reached, look in its cache only, instead of trying for more than a minute."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # the HTTP library, and with it the exception, differs by version of the hub's client
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def tensors_only() -> Iterator[None]:
    """Libraries that would take programs from a pickle take tensors alone."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
