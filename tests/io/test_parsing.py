"""JSON, YAML and numbers: what is refused, with the place of it; what is kept."""

from __future__ import annotations

import json
import time

import pytest

from deeph_gformer.errors import ConfigError, DataError, printable, reason
from deeph_gformer.io.parsing import parse_json, parse_number, parse_yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("[" * 100_000, "nested more than 100 deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested more than 100 deep"),
        ('{"a": ' + "9" * 5000 + "}", "an integer of more than 18 digits"),
        ('{"a": ' + "9" * 25 + "}", "an integer of more than 18 digits"),
        ('{"a": 1e999}', "beyond the range"),
        ('{"a": 0.' + "1" * 1000 + "}", "more than 400 characters"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' is given twice"),
        ('{"x": {"\\u001b[2J": 1, "\\u001b[2J": 1}}', r"key '\\x1b\[2J' is given twice"),
        ("{", "line 1 column 2"),
        ("", "Expecting value"),
    ],
)
def test_json_beyond_limits(text: str, words: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=f"f.json: not valid JSON .*{words}"):
        parse_json(text, "f.json")
    assert time.process_time() - start < 2


def test_json_is_kept() -> None:
    value = {"a": [1, -2.5, None, True, {"b": "x\u00c5"}], "big": 10**17}
    assert parse_json("\ufeff" + json.dumps(value), "f") == value
    assert parse_json("[NaN]", "f")[0] != parse_json("[NaN]", "f")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x", "line 2: anchors and aliases"),
        ("a: !!python/object/apply:os.system [echo]", "line 1: tag .*python.* is not supported"),
        ("a: " + "[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("a: " + "[" * 100_000, "nested more than 100 deep"),
        ("a: " + "9" * 5000, "an integer of more than 18 digits|is too long"),
        ("a: 1\na: 2", "line 2: key 'a' is given twice"),
        ("? [1, 2]\n: 3", "is no word"),
        ("1: 2", "key '1' is no word"),
        ("null: 2", "key 'None' is no word"),
        ("a: [1", "line 1"),
        ("a: \x01", "special characters"),
        ("a: !!binary =", "binary"),
        ("a: 1:30", "line 1: '1:30': write an integer as"),
        ("a: 010", "'010': write an integer as"),
        ("a: 0x1F", "'0x1F': write an integer as"),
        ("a: [0b11]", "'0b11': write an integer as"),
        ("a: 1:30.5", "'1:30.5' is no number"),
        ("a: !!timestamp x", "line 1"),
    ],
)
def test_yaml_beyond_limits(text: str, words: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match=f"f.yaml: not valid YAML .*({words})"):
        parse_yaml(text, "f.yaml")
    assert time.process_time() - start < 2


def test_yaml_is_kept() -> None:
    text = "a: 2024-01-01\nb: [1, 2.5, null, true, word]\nc:\n  d: '1'\ne: 1e-3\nf: -7\n"
    value = {"a": "2024-01-01", "b": [1, 2.5, None, True, "word"], "c": {"d": "1"}}
    assert parse_yaml(text, "f") == value | {"e": "1e-3", "f": -7}


def test_numbers() -> None:
    assert parse_number(" -1.5e3 ", "f") == -1500.0 and parse_number("7", "f", int) == 7
    for text in ("", "x", "nan", "inf", "1e999", "9" * 5000, "1" * 500 + ".0"):
        with pytest.raises(DataError, match="f, line 3: a number is needed"):
            parse_number(text, "f, line 3")
    for text in ("1.5", "9" * 30, "--1"):
        with pytest.raises(DataError, match="an integer is needed"):
            parse_number(text, "f", int)


def test_names_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b]0;t\x07\nb\udcff\u202ec Å") == "a\\x1b]0;t\\x07\\nb\\udcff\\u202ec Å"


def test_a_reason_is_one_short_line_and_never_empty() -> None:
    assert reason(ValueError("first\n  second\x1b[0m")) == "first second\\x1b[0m"
    assert reason(AssertionError()) == "no reason given: AssertionError"
    assert len(reason(ValueError("x" * 999))) == 200
