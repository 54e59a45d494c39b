"""The pages in ``docs`` as a reader of the plain files has them, and what keeps their output true.

``make docs`` runs the commands; here are the rules by which it compares, and that every command of
a page is one.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import shlex
from types import ModuleType

import pytest

from deeph_gformer.cli import build_parser

from .conftest import ROOT

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts and path.name not in ("commands.md", "settings.md", "results.md")
)
#: Pages of the site alone: cards that lead to the tutorials, and what Sphinx reads from docstrings.
SITE = ("docs/index.md", "docs/reference/api.md")


@pytest.fixture(scope="module")
def blocks() -> ModuleType:
    path = ROOT / "docs" / "_ext" / "console_blocks.py"
    spec = importlib.util.spec_from_file_location("console_blocks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_page_needs_no_sphinx(path: pathlib.Path) -> None:
    """No directive whose output is missing in the plain file, and no link without words."""
    text = path.read_text()
    if name(path) not in SITE:
        assert not re.findall(r"^(?:```|:::+)\{.*|^: .*", text, re.MULTILINE)
    assert "[](" not in text
    prose = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)  # tables, and what commands print
    prose = re.sub(r"^```console$.*?^```$", "", prose, flags=re.MULTILINE | re.DOTALL)
    card = "models" in path.parts or path.parent.name == "gformer"
    if not card:
        assert [line for line in prose.splitlines() if len(line) > 100] == []


def words_of(path: pathlib.Path) -> list[str]:
    """The words after ``deeph-gformer`` of each command in a page's blocks of code."""
    found, fenced = [], False
    for line in re.sub(r"\\\n\s*", " ", path.read_text()).splitlines():
        fenced ^= line.startswith("```")
        match = re.match(r"(    |\$ |)deeph-gformer (\w.*)", line)
        if match is None or not (fenced or match[1]):
            continue
        words = re.sub(r"\bN\b", "1", re.split(r" +# ", match[2])[0].strip())
        if not re.search(r"[|<>]|\.\.\.|\[", words):
            found.append(words)
    return found


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_of_a_page_are_commands(
    path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = build_parser()
    for line in words_of(path):
        try:
            _, unknown = parser.parse_known_args(shlex.split(line))
        except SystemExit as end:
            assert end.code == 0, (line, capsys.readouterr().err)
            continue
        assert not unknown, (line, unknown)


def test_commands_are_found() -> None:
    found = {name(path): len(words_of(path)) for path in PAGES}
    assert found["README.md"] >= 10 and found["docs/tutorials/topological.md"] == 4
    assert sum(found.values()) > 80


def test_commands_of_a_console_block(blocks: ModuleType) -> None:
    page = "x\n```console\n$ a \\\n  b\nout\n\nmore\n$ c\n```\n```text\n$ no\n```\n"
    page += "```console\n$ d\ne\n```"
    found = blocks.commands(page)
    assert [(c.line, c.text, c.expected) for c in found] == [
        (3, "a \\\n  b", ["out", "", "more"]),
        (8, "c", []),
        (14, "d", ["e"]),
    ]
    with pytest.raises(ValueError, match="line 2: a console block begins with"):
        blocks.commands("```console\nls\n```")


@pytest.mark.parametrize(
    "expected, actual, same",
    [
        ("MAE 1.234 meV", "MAE   1.235 meV", True),
        ("MAE 1.234 meV", "MAE 1.26 meV", False),
        ("MAE 1.234 meV", "MAE 1.234 eV", False),
        ("ratio 0.001", "ratio 0.003", True),
        ("ratio 0.001", "ratio 0.004", False),
        ("gap -0.50 eV", "gap 0.50 eV", False),
        ("18 atoms", "19 atoms", False),
        ("time: ...", "time: edges 0.3 s", True),
        ("a ... c", "a b d", False),
        ("a.b", "axb", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nz", True),
        ("a\n...\nz", "a\nb", False),
        ("a", "a\nb", False),
        ("a\nb", "a", False),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_outputs_are_compared(blocks: ModuleType, expected: str, actual: str, same: bool) -> None:
    assert blocks.same(expected.splitlines(), actual.splitlines()) is same


def test_a_page_is_checked_and_written(
    blocks: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SCRATCH", tmp_path)
    page = tmp_path / "page.md"
    text = "# T\n\n```console\n$ echo a; echo b >&2\nwrong\n```\n"
    text += "\n```console\n$ echo 2.50 s\n2.51 s\n```\n"
    page.write_text(text)
    assert [(line, "prints now:\na\nb" in words) for line, words in blocks.check(page)] == [
        (4, True)
    ]
    assert page.read_text() == text
    blocks.check(page, write=True)
    assert page.read_text() == text.replace("wrong", "a\nb") and blocks.check(page) == []
    page.write_text("```console\n$ false\n```\n")
    assert "exit code 1" in blocks.check(page)[0][1]
    page.write_text(
        "```console\n$ echo 'note: 3 of 10 k-points' >&2; echo 'note: x'\nnote: x\n```\n"
    )
    assert not blocks.check(page)  # how far slow machines are


def test_times_and_memory_are_masked(blocks: ModuleType) -> None:
    lines = [
        "structure  atoms  refined MAE/meV  seconds  peak GB",
        "---------  -----  ---------------  -------  -------",
        "0030          18            0.368     1.25     0.51",
        "0031          18            0.400    11.25     0.51",
        "time: edges 0.01 s, stage 1 0.90 s",
        "1 structures, 832 edges, 1.3 s",
        "equivariance error  7.84e-05  7.89e-05  -",
        f"data: {blocks.SCRATCH}/examples",
    ]
    made = blocks.masked(lines)
    assert made == [
        *lines[:2],
        "0030          18            0.368  ...",
        "0031          18            0.400  ...",
        "time: ...",
        "1 structures, 832 edges, ... s",
        "equivariance error  ...  ...  -",
        "data: .../examples",
    ]
    assert blocks.same(made, lines)
