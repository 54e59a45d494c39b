"""Notes, warnings and details: where they go."""

from __future__ import annotations

import logging
import os
import pathlib
import re

import pytest

from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import legacy, read_folder
from deeph_gformer.logs import LOGGER, log_to

from .conftest import EXAMPLES, random_structure


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        with log_to(level):
            LOGGER.debug("a")
            LOGGER.info("b %d", 1)
            LOGGER.warning("c")
        said[level] = capsys.readouterr().err.splitlines()
    assert said[logging.DEBUG] == ["detail: a", "note: b 1", "warning: c"]
    assert said[logging.INFO] == ["note: b 1", "warning: c"]
    assert said[logging.WARNING] == ["warning: c"]
    LOGGER.info("as before")
    assert capsys.readouterr().err == "note: as before\n"


def test_a_file_gets_everything_and_keeps_what_it_has(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", False)  # a test runner cannot send such a name on
    structure, _, _ = random_structure()
    legacy.write_structure(tmp_path / "s", structure)
    log = tmp_path / "x.log"
    log.write_text("mine\n")
    with log_to(logging.WARNING, log):
        read_folder(tmp_path / "s")
        logging.getLogger("deeph_gformer.io").info("\udcff")
    read_folder(tmp_path / "s")
    lines = log.read_text().splitlines()
    assert lines[0] == "mine" and len(lines) == 3 and not capsys.readouterr().err
    assert "DEBUG" in lines[1] and f"read {tmp_path / 's'} (legacy): 4 atoms" in lines[1]
    assert "INFO    deeph_gformer.io: \\udcff" in lines[2]
    with pytest.raises(ConfigError, match="--log-file .*: cannot be written"):
        with log_to(logging.INFO, tmp_path / "none" / "x.log"):
            pass


def test_every_verb_logs(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked for, and how it ended, also where that is an error."""
    log = tmp_path / "x.log"
    assert main(["info", str(tmp_path / "none"), "-q", "--log-file", str(log)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    first, last = log.read_text().splitlines()
    assert f"info quiet=True, log_file={log}, path={tmp_path / 'none'}" in first
    assert "after " in last and "none: no such file or folder" in last


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full here")
def test_a_log_on_a_full_disk_is_told_once(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work is done, and its result is there."""
    structure, _, _ = random_structure()
    legacy.write_structure(tmp_path / "s", structure)
    words = ["info", str(tmp_path / "s"), "--json", str(tmp_path / "a.json")]
    assert main([*words, "--log-file", "/dev/full"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "warning: /dev/full: lines are missing" in lines[0]
    assert "No space left" in lines[0] and (tmp_path / "a.json").exists()


def test_progress_of_kpoints_is_a_bar_that_goes_away(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, with the time left; an error stands on a line of its own."""
    words = ["fermi", str(EXAMPLES / "structures" / "0030"), "--mesh", "4x4x1", "--electrons", "72"]
    assert main(words) == 0
    assert "k-point" not in capsys.readouterr().err  # no terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert re.search(r"k-points: +0%.* 0/10 \[.*k-point/s", shown), shown
    assert shown.split("\r")[-1].strip() == ""

    def stops(done: int, count: int) -> None:
        raise DataError("no more")

    with monkeypatch.context() as patch:
        patch.setattr("deeph_gformer.terminal.Progress.at", lambda *words: stops(1, 2))
        assert main(words) == 2
    last = capsys.readouterr().err.split("\r")[-1]
    assert last == "deeph-gformer fermi: error: no more\n"
    assert main([*words, "-q"]) == 0 and not capsys.readouterr().err


def test_progress_is_told_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As notes: none on short work, none with -q."""
    words = ["fermi", str(EXAMPLES / "structures" / "0030"), "--mesh", "4x4x1", "--electrons", "72"]
    monkeypatch.setattr("deeph_gformer.commands.loading._BETWEEN_LINES_S", 0.0)
    assert main(words) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "k-points" in line]
    assert lines == [f"note: {done} of 10 k-points" for done in range(1, 10)]
    assert main([*words, "-q"]) == 0 and not capsys.readouterr().err
