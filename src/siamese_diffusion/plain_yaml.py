"""YAML as settings and study files use it: mappings with text for keys, lists and plain values.

Design note: what YAML has besides is refused before anything is built from it. An anchor may stand for a value that
holds other anchors ten times each, so that 300 bytes become gigabytes in the first message that shows them; a key that
is written twice would silently lose its first value; `on: 1` and `1: x` have keys that are no text.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from siamese_diffusion.errors import InputError, brief, reason
from siamese_diffusion.files import DEEPEST, read_text

LONGEST = 1 << 18
"""Characters of a file of settings; a megabyte would take seconds to read."""

HEAVIEST = 20_000
"""Values that a file may stand for, with every anchor written out where it is used."""

_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + kind for kind in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map")}


def read_plain_yaml(path: Path) -> Any:
    """What a YAML file holds; None where it is empty.

    Raises:
        InputError: the file is missing, is not YAML, or holds more than plain values (the line names where).
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, what: str) -> Any:
    """The value of a YAML text.

    Raises:
        InputError: it is not YAML or holds more than plain values; the line begins with `what`.
    """
    if len(text) > LONGEST:
        raise InputError(f"{what}: holds {len(text)} characters, more than settings do ({LONGEST})")
    if _brackets(text) > DEEPEST:  # of which PyYAML takes a second for each thousand
        raise InputError(f"{what}: not valid YAML (it is nested too deeply)")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Weight(what).of(node)
        return loader.construct_document(node)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{what}: not valid YAML (it is nested too deeply)") from None
    except yaml.MarkedYAMLError as error:
        if "'\\t'" in str(error.problem):
            raise InputError(
                f"{what}: not valid YAML{_place(error.problem_mark)}: it has a tab; YAML is indented with spaces"
            ) from None
        raise InputError(f"{what}: not valid YAML{_place(error.problem_mark)} ({brief(str(error.problem))})") from None
    except Exception as error:  # a date that is none, a number of 5000 digits
        raise InputError(f"{what}: not valid YAML ({reason(error)})") from None


def _brackets(text: str) -> int:
    """How many lists and mappings in brackets are open at once, at most; those in quotes count too."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if bracket in "[{" else -1))
        deepest = max(deepest, depth)
    return deepest


class _Loader(yaml.SafeLoader):
    """PyYAML's own, but that a whole number fits 64 bits, which is what whatever takes it can hold."""

    def construct_yaml_int(self, node: ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if not -(1 << 63) <= value < 1 << 63:
            raise yaml.constructor.ConstructorError(None, None, "a number that large", node.start_mark)
        return value


_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)


class _Weight:
    """Counts the values that a node stands for, and refuses what is not plain on the way; each node is looked at
    once."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.known: dict[int, int] = {}
        self.above: set[int] = set()

    def of(self, node: Node) -> int:
        """The number of values of `node`."""
        if id(node) in self.known:
            return self.known[id(node)]
        if node.tag not in _PLAIN:
            raise self._refusal(node, f"the tag {brief(node.tag.replace(_TAG, '!!'), 40)} is not used in settings")
        if id(node) in self.above:
            raise self._refusal(node, "an anchor holds itself")
        if len(self.above) >= DEEPEST:
            raise self._refusal(node, "it is nested too deeply")
        self.above.add(id(node))
        weight = 1 + sum(self.of(inner) for inner in self._inside(node))
        self.above.remove(id(node))
        if weight > HEAVIEST:
            raise self._refusal(node, f"with its anchors written out it holds more than {HEAVIEST} values")
        self.known[id(node)] = weight
        return weight

    def _inside(self, node: Node) -> list[Node]:
        if isinstance(node, MappingNode):
            self._require_keys(node)
            return [value for _, value in node.value]
        return list(node.value) if isinstance(node, SequenceNode) else []

    def _require_keys(self, node: MappingNode) -> None:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if key.tag == _TAG + "merge":
                continue
            if not isinstance(key, ScalarNode) or key.tag != _TAG + "str":
                shown = repr(brief(str(key.value), 40)) if isinstance(key, ScalarNode) else "a list or mapping"
                raise self._refusal(key, f"{shown} is a key, and keys are text (write it in quotes)")
            if key.value in seen:
                raise self._refusal(key, f"the key {brief(key.value, 40)!r} is there twice")
            seen.add(key.value)

    def _refusal(self, node: Node, why: str) -> InputError:
        return InputError(f"{self.what}: not plain YAML{_place(node.start_mark)}: {why}")


def _place(mark: Any) -> str:
    return f" at line {mark.line + 1}" if mark is not None else ""
