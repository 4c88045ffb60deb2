"""Damage to JSON, YAML and tables: one value is another, or the text breaks a rule of its language."""

import json
import random
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-320, 1e308, 10**7, 2**31, 2**63, -(2**63), 10**18),
    *(
        "",
        " ",
        "x",
        "0",
        "nan",
        "../../etc/passwd",
        "/etc/passwd",
        "\0",
        "a\0b",
        "a\nb",
        "é",
        "\U0001f600",
        "CON",
        "..",
        ".",
    ),
    *("x" * 300, "x" * 5000, "<script>alert(1)</script>", "{dataset}", "{0.__class__}", "%s%n", "|", "\\", '"', "'"),
    *([], [[]], [None], [0], ["x"], {}, {"": 0}, {"x": {}}, [[[[[[[[]]]]]]]], list(range(200))),
)
"""What a value of JSON or YAML is replaced with."""

RAW_JSON = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "-" + "9" * 30, '"\\ud800"', '"\\udc00\\ud800"'),
    *(
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "[" * 2000 + "]" * 2000,
        '{"a":' * 3000,
        '"' + "x" * 100_000 + '"',
        "[1, 2",
        "tru",
        "'x'",
    ),
)
"""The same, as text that `json.dumps` does not write."""

RAW_YAML = (
    *(
        "!!timestamp x",
        "!!int abc",
        "!!float x",
        "!!bool x",
        "!!binary '*'",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!null x",
    ),
    *(
        "!!python/object/apply:os.system ['touch CANARY']",
        "!!python/name:os.system",
        "!!python/object/new:str [x]",
        "!x y",
    ),
    *(
        "2001-99-99",
        "2001-01-01T99:99:99Z",
        "9" * 5000,
        "0x" + "f" * 5000,
        "0b" + "1" * 9000,
        "1:30:99",
        "08",
        ".inf",
        ".nan",
    ),
    *(
        "&a [*a]",
        "*nothing",
        "&a {<<: *a}",
        "{<<: 3}",
        "? [1, 2]\n: x",
        "{1: x}",
        "{on: x}",
        "{null: x}",
        "{a: 1, a: 2}",
    ),
    *(
        "[" * 5000,
        "- " * 3000 + "x",
        "{a: " * 2000,
        "? " * 2000 + "x",
        "|\n x\n\ty",
        "\t- x",
        "%YAML 9.9\n---\nx",
        "a\n---\nb",
        "@x",
        "`x",
    ),
    "[&a [x, x], "
    + ", ".join(f"&{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + "]",
    "{a: &a {x: 1}, "
    + ", ".join(
        f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}" for old, new in zip("abcdefg", "bcdefgh", strict=True)
    )
    + "}",
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, entry in inner for found in _places(entry, (*place, key)))]


def _change(random: random.Random, value: Any, raw: tuple[str, ...]) -> tuple[Any, str | None]:
    """`value` with one place changed; where it is to be raw text, a word stands there that the caller replaces."""
    places = _places(value)
    place = random.choice(places)
    if not place:
        return random.choice(VALUES), None
    outer = value
    for key in place[:-1]:
        outer = outer[key]
    how = random.random()
    if how < 0.2:
        del outer[place[-1]]
    elif how < 0.3 and isinstance(outer, dict):
        outer[random.choice(("", "x", "1", str(place[-1]).upper(), "train.steps", "\0"))] = outer.pop(place[-1])
    elif how < 0.4:
        outer[place[-1]] = [outer[place[-1]]]
    elif how < 0.8:
        outer[place[-1]] = random.choice(VALUES)
    else:
        outer[place[-1]] = "RAW-TEXT"
        return value, random.choice(raw)
    return value, None


def json_text(random: random.Random, content: bytes) -> bytes:
    """One value deep inside is another, or the text breaks a rule."""
    value, raw = _change(random, json.loads(content), RAW_JSON)
    text = json.dumps(value, indent=random.choice((None, 2)), ensure_ascii=random.random() < 0.5)
    text = text if raw is None else text.replace('"RAW-TEXT"', raw)
    return text.encode("utf-8", "surrogatepass")


def jsonl_text(random: random.Random, content: bytes) -> bytes:
    """One line is changed as a JSON text is, or lines are doubled, blank, or swapped."""
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    how = random.random()
    if how < 0.7 and lines[at].strip():
        lines[at] = json_text(random, lines[at]).replace(b"\n", b" ")
    else:
        lines.insert(at, random.choice((b"", b" ", b"null", lines[random.randrange(len(lines))])))
    return random.choice((b"\n", b"\n", b"\r\n")).join(lines)


def yaml_text(random: random.Random, content: bytes) -> bytes:
    """As of JSON, and with what YAML has besides: tags, anchors, keys that are no text."""
    value, raw = _change(random, yaml.safe_load(content), RAW_YAML)
    if raw is not None and random.random() < 0.3:
        return raw.encode()
    text = yaml.safe_dump(value, default_flow_style=random.random() < 0.3)
    return text.replace("RAW-TEXT", raw or "").encode("utf-8", "surrogatepass")


def csv_text(random: random.Random, content: bytes) -> bytes:
    """One field is another, or a line has more or fewer."""
    rows = [line.split(b",") for line in content.split(b"\n")]
    row = random.choice(rows)
    at = random.randrange(len(row))
    how = random.random()
    if how < 0.6:
        hostile = (
            b"",
            b"nan",
            b"inf",
            b"-1",
            b"1e999",
            b"x",
            b'"',
            b'"a\nb"',
            b"\0",
            b"9" * 5000,
            b"x" * 200_000,
            b"\xe9",
            b"0x1",
            b"1_0",
        )
        row[at] = random.choice(hostile)
    elif how < 0.8:
        row.insert(at, b"x")
    else:
        del row[at]
    return b"\n".join(b",".join(row) for row in rows)
