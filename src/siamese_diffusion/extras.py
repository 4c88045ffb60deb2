"""Libraries that not everybody needs, imported late; where one is not installed a line says what brings it."""

from importlib.util import find_spec

from siamese_diffusion.errors import InputError


def require(modules: tuple[str, ...], extra: str, what: str) -> None:
    """Refuse what a missing library would do.

    Args:
        modules: names that are to be imported.
        extra: of this package, which brings them.
        what: the option or setting that asks for it, for the line.

    Raises:
        InputError: one is not installed.
    """
    lacking = [name for name in modules if find_spec(name) is None]
    if lacking:
        raise InputError(f"{what}: needs {', '.join(lacking)}; pip install 'siamese-diffusion[{extra}]'")


def has_tensorboard() -> bool:
    """Whether curves can be written for TensorBoard."""
    return find_spec("tensorboard") is not None
