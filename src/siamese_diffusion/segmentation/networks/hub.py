"""Weights of encoders from the Hugging Face hub: no code from a file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
