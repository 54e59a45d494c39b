"""What messages, help texts and the documentation tell users to type exists."""

from __future__ import annotations

import argparse
import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

from deeph_gformer.cli import build_parser

from .conftest import ROOT

PACKAGE = ROOT / "deeph_gformer"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
#: Options of other programs that are named.
FOREIGN = {
    "--nproc-per-node": "torchrun",
    "--nnodes": "torchrun",
    "--master-addr": "torchrun",
    "--master-port": "torchrun",
    "--node-rank": "torchrun",
    "--rdzv-backend": "torchrun",
    "--rdzv-endpoint": "torchrun",
    "--standalone": "torchrun",
    "--extra-index-url": "pip",
    "--index-url": "pip",
    "--no-deps": "pip",
    "--logdir": "tensorboard",
    "--config": "deephe3-eval.py",
    "--editable": "pip",
}


def verbs() -> dict[str, set[str]]:
    """Options of each verb ("overlap fit" for a verb with actions)."""
    found: dict[str, set[str]] = {}

    def walk(parser: argparse.ArgumentParser, name: str) -> None:
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        found[name] = {o for a in parser._actions for o in a.option_strings}
        for action in below:
            for verb, sub in action.choices.items():
                walk(sub, f"{name} {verb}".strip())

    walk(build_parser(), "")
    return found


VERBS = verbs()
ALL = set().union(*VERBS.values())


def strings(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Every text of a file, f-strings with their gaps as {}, docstrings included."""
    tree = ast.parse(path.read_text())
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in inside:
                yield node.lineno, node.value


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(verb, what follows on its line) of each ``deeph-gformer VERB ...``.

    And of ``VERB --option``.
    """
    names = sorted((v for v in VERBS if v), key=len, reverse=True)
    known = "|".join(re.escape(v) for v in names)
    for match in re.finditer(rf"deeph-gformer ({known})\b([^\n`'\"|;]*)", text):
        yield match[1], match[2]
    for match in re.finditer(rf"(?<![\w-])({known}) (--[a-z][a-z0-9-]*[a-z0-9])", text):
        yield match[1], match[2]


def wrong(text: str) -> list[str]:
    """Options in a text that no command has, or not the command that is named with them."""
    bad = [o for o in OPTION.findall(text) if o not in ALL and o not in FOREIGN]
    for verb, rest in commands(text):
        mine = set().union(*(o for v, o in VERBS.items() if v == verb or v.startswith(f"{verb} ")))
        bad += [f"{verb} {o}" for o in OPTION.findall(rest) if o not in mine and o not in FOREIGN]
    return bad


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_options_in_messages_exist(path: pathlib.Path) -> None:
    bad = [f"{path.name}:{line} {o}" for line, text in strings(path) for o in wrong(text)]
    assert not bad


#: Verbs through which users meet the messages of an area of the package.
REACH = {
    "inference": {"refine", "eval", "derivative"},
    "training": {"train", "train-stage1", "ablate", "onsite"},
    "ablation": {"ablate"},
    "overlap": {"overlap fit", "overlap predict", "overlap info", "refine", "build twist"},
    "interop": {"convert", "eval", "refine"},
}


@pytest.mark.parametrize("area", sorted(REACH))
def test_options_belong_to_a_command_that_says_them(area: str) -> None:
    mine = set().union(*(o for v, o in VERBS.items() if v in REACH[area]))
    bad = [
        f"{path.name}:{line} {option}"
        for path in sorted((PACKAGE / area).rglob("*.py"))
        for line, text in strings(path)
        if not any(True for _ in commands(text))
        for option in OPTION.findall(text)
        if option not in mine and option not in FOREIGN
    ]
    assert not bad


DOCS = sorted(
    path
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    if "_build" not in path.parts
)


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_in_the_documentation_exist(path: pathlib.Path) -> None:
    places = ("benchmarks/*.py", "examples/**/*.py", "tests/robustness/*.py")
    scripts = [path for place in places for path in ROOT.glob(place)]
    others = {o for p in scripts for o in OPTION.findall(p.read_text())}
    assert not set(wrong(path.read_text().replace("\\\n", " "))) - others


def test_this_test_can_fail() -> None:
    assert wrong("give --kpoints 9x9x1") == ["--kpoints"]
    assert wrong("see deeph-gformer refine --extrapolate") == ["refine --extrapolate"] * 2
    assert not wrong("see deeph-gformer overlap predict --extrapolate")
