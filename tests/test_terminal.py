"""Standard streams that are closed, full, or have lost their reader."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable
from typing import TextIO

import pytest

from deeph_gformer import cli
from deeph_gformer.cli import main
from deeph_gformer.terminal import Plain, figures, keep_numbers, plain_streams

from .robustness.test_together import forked

Folder = Callable[..., pathlib.Path]


def _ended() -> TextIO:
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def test_a_full_standard_output_is_an_error(
    make_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gap", str(make_folder(atoms=2)), "--electrons", "4", "--mesh", "1x1x1"]
    with open("/dev/full", "w") as full:  # nothing is written before its buffer is
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == 2
        full.flush()  # as Python does at its end
    text = capsys.readouterr().err
    assert text.count("error:") == 1 and "standard output: No space left" in text


@pytest.mark.parametrize("kind", ["ended", "closed", "none"])
def test_an_output_that_nobody_reads_changes_nothing(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    words = ["gap", str(make_folder(atoms=2)), "--electrons", "4", "--mesh", "1x1x1"]
    with _ended() as stream:
        if kind == "closed":
            stream.close()
        monkeypatch.setattr(sys, "stdout", None if kind == "none" else stream)
        assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    assert (tmp_path / "a.json").stat().st_size > 0


def test_work_goes_on_without_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many lines, also those that are flushed one by one, as a training's."""
    with _ended() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with plain_streams():
            for number in range(1000):
                print(number, flush=number % 3 == 0)
            print("x" * 10**6)


@pytest.mark.parametrize("stream", [None, "/dev/full"])
def test_errors_that_cannot_be_told_have_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    place = open(stream, "w", buffering=1) if stream else None
    monkeypatch.setattr(sys, "stderr", place)
    assert main(["nonsense"]) == 2
    if place is not None:
        place.close()


def test_what_stands_for_a_stream_needs_no_more_than_write(
    make_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As objects that scripts and notebooks put in place of standard output."""

    class Tee:
        text, broken = "", False

        def write(self, text: str) -> None:
            if self.broken:
                raise BrokenPipeError
            self.text += text

    tee = Tee()
    monkeypatch.setattr(sys, "stdout", tee)
    assert main(["info", str(make_folder(atoms=2))]) == 0
    assert "atoms" in tee.text
    tee.broken = True
    assert main(["info", str(make_folder(atoms=2))]) == 0


@pytest.mark.parametrize(
    ("value", "count", "text"),
    [
        (1767.4, 3, "1767"),
        (999.7, 3, "1000"),
        (52.37, 3, "52.4"),
        (130.2, 2, "130"),
        (0.5, 3, "0.5"),
    ],
)
def test_large_figures_have_no_exponent(value: float, count: int, text: str) -> None:
    assert figures(value, count) == text and figures(-value, count) == f"-{text}"


def test_a_full_disk_is_told_once() -> None:
    with open("/dev/full", "w") as full:
        out = Plain(full, "standard output")
        out.write("x")
        with pytest.raises(OSError, match="standard output"):
            out.flush()
        out.write("x")
        out.flush()


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: pathlib.Path) -> None:
    def work() -> int:
        for number in (0, 2):
            os.close(number)
        keep_numbers()
        with open(tmp_path / "a", "w") as file:
            os.write(2, b"of a library")
            return int(file.fileno() < 3)

    assert forked(work) == [0] and (tmp_path / "a").read_bytes() == b""


def test_commands_keep_these_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(cli, "keep_numbers", lambda: called.append(1))
    monkeypatch.setattr(cli, "_main", lambda words, last: len(called))
    assert cli.command() == 1
