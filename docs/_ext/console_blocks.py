"""Tutorials that are read as they are, and stay true: their console blocks are run.

A block of ``console`` holds commands (``$ ...``) and what each prints, stdout and stderr together.
``make docs`` runs them, page by page, in one scratch folder, and fails where the output is another
one. ``...`` stands for anything in its place, or, alone in a line, for any number of lines; numbers
with a decimal point may differ by 2 %.

    python docs/_ext/console_blocks.py [--write] [PAGE ...]

runs the tutorials without Sphinx; ``--write`` puts today's output where it is another one.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

DOCS = pathlib.Path(__file__).resolve().parents[1]
SCRATCH = DOCS / "_build" / "tutorials"
TOLERANCE = 0.02
_PROGRESS = re.compile(r"note: \d+ of \d+ ")  # said on slow machines only
_NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")


class Command(NamedTuple):
    """One command of a page.

    Attributes:
        line: where it stands, from 1.
        text: as the shell gets it.
        expected: lines that it prints.
        start, stop: the lines of the page that hold ``expected``, from 0.
    """

    line: int
    text: str
    expected: list[str]
    start: int
    stop: int


def commands(page: str) -> list[Command]:
    """The commands of all console blocks of a page, in order.

    Raises:
        ValueError: a block does not begin with a command.
    """
    found: list[Command] = []
    inside, lines = False, page.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if not inside:
            inside = line.startswith("```console")
            if inside and not lines[number + 1].startswith("$ "):
                raise ValueError(f"line {number + 2}: a console block begins with a command, '$ '")
            number += 1
        elif line.startswith("```"):
            inside = False
            number += 1
        else:
            first, words = number, [line.removeprefix("$ ")]
            while words[-1].endswith("\\"):
                number += 1
                words.append(lines[number])
            number += 1
            start = number
            while not lines[number].startswith(("$ ", "```")):
                number += 1
            text = "\n".join(words)
            found.append(Command(first + 1, text, lines[start:number], start, number))
    return found


def _same_line(expected: str, actual: str) -> bool:
    """Whether a line is as the page has it; white space does not count."""
    pieces = [" ".join(piece.split()) for piece in expected.split("...")]
    number = f"({_NUMBER.pattern})"
    pattern = ".*".join(number.join(map(re.escape, _NUMBER.split(piece))) for piece in pieces)
    match = re.fullmatch(pattern, " ".join(actual.split()))
    if match is None:
        return False
    numbers = [text for piece in pieces for text in _NUMBER.findall(piece)]
    return all(_close(*pair) for pair in zip(numbers, match.groups(), strict=True))


def _close(expected: str, actual: str) -> bool:
    """Whether two numbers are the same to 2 %, or to two units of the last digit."""
    digits = len(re.split("[.e]", expected)[1])
    most = max(TOLERANCE * abs(float(expected)), 2.01 * 10.0**-digits)
    return abs(float(expected) - float(actual)) <= most


def same(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Whether an output is as the page has it."""
    if not expected:
        return not actual
    if expected[0].strip() == "...":
        return any(same(expected[1:], actual[n:]) for n in range(len(actual) + 1))
    return bool(actual) and _same_line(expected[0], actual[0]) and same(expected[1:], actual[1:])


def masked(lines: Sequence[str]) -> list[str]:
    """An output with ``...`` for times, memory, places and sizes of rounding errors, which no two
    machines share.
    """
    result: list[str] = []
    cut: int | None = None
    for line in lines:
        if "seconds" in line and "peak GB" in line:  # the last columns of the table of refine
            cut = len(line[: line.index("seconds")].rstrip())
        elif cut is not None and re.fullmatch(r"[\d.]+ +[\d.]+", line[cut:].strip()):
            line = f"{line[:cut]}  ..."
        elif not set(line) <= set("- "):
            cut = None
            line = line.replace(str(SCRATCH), "...")
            line = re.sub(r"^time: .*", "time: ...", line)
            line = re.sub(r"\d\.\d+e[-+]\d+", "...", line)  # rounding errors, rates
            line = re.sub(r"\b\d+(?:\.\d+)? (s|min)\b", r"... \1", line)
        result.append(line.rstrip())
    return result


def run(command: str) -> list[str]:
    """What a command prints in the scratch folder, without empty lines at the end."""
    names = {"COLUMNS": "100", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=SCRATCH,
        env=os.environ | names | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    lines = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
    lines = [line for line in lines if not _PROGRESS.match(line)]
    return [*lines, f"exit code {done.returncode}"] if done.returncode else lines


def prepare() -> None:
    """An empty scratch folder beside a link to the examples."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    (SCRATCH / "examples").symlink_to(DOCS.parent / "examples", target_is_directory=True)


def check(path: pathlib.Path, write: bool = False) -> list[tuple[int, str]]:
    """Run a page.

    Args:
        path: of the page.
        write: put what was printed into it, where it is something else.

    Returns:
        (line, message) of each command that prints something else.
    """
    wrong: list[tuple[int, str]] = []
    text = path.read_text(encoding="utf-8")
    every = commands(text)
    printed = [run(command.text) for command in every]
    lines = text.splitlines()
    for command, actual in reversed([*zip(every, printed, strict=True)]):
        if not same(command.expected, actual):
            words = "\n".join([command.text, "prints now:", *actual])
            wrong.insert(0, (command.line, words))
            lines[command.start : command.stop] = masked(actual)
    if write and wrong:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return wrong


def pages() -> list[pathlib.Path]:
    """The tutorials; they share the scratch folder."""
    return sorted((DOCS / "tutorials").glob("*.md"))


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    from sphinx.util import logging

    def at_start(app: Any) -> None:
        prepare()
        for path in pages():
            for line, message in check(path):
                name = path.relative_to(DOCS).with_suffix("")
                logging.getLogger(__name__).warning(message, location=(str(name), line))

    app.connect("builder-inited", at_start)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main(words: Sequence[str] | None = None) -> int:
    """Run the tutorials from a shell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put today's output into the pages")
    parser.add_argument("page", nargs="*", type=pathlib.Path, help="default: all tutorials")
    args = parser.parse_args(words)
    prepare()
    wrong = 0
    for path in args.page or pages():
        for line, message in check(path, args.write):
            wrong += 1
            print(f"{path}:{line}: {message}\n")
    return int(bool(wrong) and not args.write)


if __name__ == "__main__":
    sys.exit(main())
