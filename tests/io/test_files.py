"""Opening and writing: pipes, devices, links, folders, and folders that are replaced whole."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io.files import atomic_path, read_json, read_text, require_file, write_json
from deeph_gformer.io.npz import read_arrays
from deeph_gformer.io.poscar import read_poscar
from deeph_gformer.io.replace import remove_leftovers, replaced_folder

from ..conftest import ROOT
from ..robustness.killing import deaths


def test_only_regular_files_are_read(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_text("\ufeffx")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    for name, words in (
        ("pipe", "is a device, pipe or socket"),
        ("socket", "is a device, pipe or socket"),
        ("/dev/zero", "is a device, pipe or socket"),
        (".", "is a folder"),
        ("loop", "cannot be read"),
        ("none", "file not found; look elsewhere"),
        ("file/x", "file not found"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(DataError, match=words):
            require_file(tmp_path / name, missing="look elsewhere")
    assert read_text(tmp_path / "link") == "x"
    with pytest.raises(DataError, match="at most 0 MiB"):
        read_text(tmp_path / "file", 3)
    (tmp_path / "bytes").write_bytes(b"a\xff")
    with pytest.raises(DataError, match="byte 2 is not UTF-8"):
        read_text(tmp_path / "bytes")


def test_a_pipe_is_written_to_and_stays(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_json(tmp_path / "pipe", [1.5, float("nan")])
    reader.join(600)
    assert json.loads(got[0]) == [1.5, None] and (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_devices_stay_devices(tmp_path: pathlib.Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (tmp_path / "full").symlink_to("/dev/full")
    for target in ("/dev/full", tmp_path / "full"):
        with pytest.raises(DataError, match="No space left"):
            write_json(target, [1])
    write_json("/dev/null", [1])
    assert not os.path.isfile("/dev/full") and not os.path.isfile("/dev/null")
    assert (tmp_path / "full").is_symlink()


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_json_on_standard_output(tmp_path: pathlib.Path, where: str) -> None:
    code = "from deeph_gformer.io.files import write_json\nprint('before')\n"
    code += "write_json('/dev/stdout', {'a': 1})\nprint('after')\n"
    with open(tmp_path / "out", "w+") as out:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE if where == "pipe" else out,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            text=True,
        )
        text = done.stdout if where == "pipe" else (tmp_path / "out").read_text()
    assert done.returncode == 0 and text.split() == ["before", "{", '"a":', "1", "}", "after"]


def test_links_stay_links_and_folders_folders(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a.json").symlink_to("real/a.json")
    for value in ([1], [2]):
        write_json(tmp_path / "a.json", value)
        assert read_json(tmp_path / "real" / "a.json") == value
    assert (tmp_path / "a.json").is_symlink() and os.listdir(tmp_path / "real") == ["a.json"]
    with pytest.raises(DataError, match="real: is a folder"):
        write_json(tmp_path / "real", [1])


def test_what_must_be_there_before(tmp_path: pathlib.Path) -> None:
    """The old file goes, what belongs to the new one comes, then the new one: never two halves."""
    write_json(tmp_path / "h", "old")
    with pytest.raises(DataError), atomic_path(tmp_path / "h", before=lambda: None) as path:
        raise OSError(28, "full")
    assert read_json(tmp_path / "h") == "old"

    def fail() -> None:
        assert not (tmp_path / "h").exists()
        raise OSError(28, "full")

    with pytest.raises(DataError), atomic_path(tmp_path / "h", before=fail) as path:
        path.write_text("new")
    assert not (tmp_path / "h").exists()


def test_zip_bombs(tmp_path: pathlib.Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**28 // 8))
    assert (tmp_path / "a.npz").stat().st_size < 2**20
    with pytest.raises(DataError, match="announces 256 MiB"):
        read_arrays(tmp_path / "a.npz", "table")
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    data = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(data.replace(b"(3,), }", b"(9**9,)"))
    with pytest.raises(DataError, match="no table, or damaged"):
        read_arrays(tmp_path / "b.npz", "table")
    (tmp_path / "b.npz").write_bytes(data.replace(b"(3,), } ", b"(9999,),"[:8]))
    with pytest.raises(DataError, match="no table, or damaged"):
        read_arrays(tmp_path / "b.npz", "table")


@pytest.mark.parametrize(("before", "exchange"), [("nothing", True), ("old", True), ("old", False)])
def test_a_folder_is_old_or_new_whenever_the_process_dies(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, before: str, exchange: bool
) -> None:
    """A death before and after each step.

    The next run puts the folder right and leaves nothing behind.
    """
    if not exchange:  # as on many network file systems
        monkeypatch.setattr("deeph_gformer.io.replace._exchange", lambda *_: False)
    names = ["element.dat", "info.json", "lat.dat", "orbital_types.dat", "site_positions.dat"]
    root = tmp_path / "root"
    folder = root / "x"

    def prepare(step: int) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        if before == "old":
            folder.mkdir()
            for name in names:
                (folder / name).write_text("old")
            (folder / "notes.txt").write_text("mine")

    def work() -> None:
        with replaced_folder(folder) as scratch:
            for name in names:
                (scratch / name).write_text("new")

    def found(step: int) -> set[str]:
        remove_leftovers(folder)
        texts = {(folder / n).read_text() for n in names} if folder.exists() else {"none"}
        assert len(texts) == 1, f"step {step}: half a folder"
        assert os.listdir(root) == (["x"] if folder.exists() else []), f"step {step}"
        assert before == "nothing" or (folder / "notes.txt").read_text() == "mine"
        return texts

    seen = [found(step) for step in deaths(work, prepare, 10**6)]
    assert len(seen) > 15
    assert set().union(*seen) == ({"none", "new"} if before == "nothing" else {"old", "new"})
    work()
    assert found(-1) == {"new"}


def test_a_living_process_keeps_its_folder(tmp_path: pathlib.Path) -> None:
    with replaced_folder(tmp_path / "x") as scratch:
        (scratch / "POSCAR").write_text("a")
        remove_leftovers(tmp_path / "x")
        assert (scratch / "POSCAR").exists()
        with replaced_folder(tmp_path / "x") as other:
            (other / "POSCAR").write_text("b")
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x" / "POSCAR").read_text() == "a"


def test_old_temporary_files_go(
    tmp_path: pathlib.Path, make_folder: Callable[..., pathlib.Path]
) -> None:
    folder = make_folder("x")
    (folder / ".hamiltonians.h5.abc.tmp").write_text("half")
    (folder.parent / ".x.abc.tmp").mkdir()
    (folder.parent / ".xy.abc.tmp").mkdir()
    remove_leftovers(folder)
    assert sorted(os.listdir(folder.parent)) == [".xy.abc.tmp", "x"]
    assert not (folder / ".hamiltonians.h5.abc.tmp").exists()


@pytest.mark.parametrize("count", ["1000000000", "9" * 5000])
def test_a_poscar_of_more_atoms_than_lines(tmp_path: pathlib.Path, count: str) -> None:
    (tmp_path / "POSCAR").write_text(f"x\n1.0\n3 0 0\n0 3 0\n0 0 3\nC\n{count}\nDirect\n0 0 0\n")
    with pytest.raises(DataError, match="POSCAR: [0-9]+ atoms are announced, in 9 lines"):
        read_poscar(tmp_path / "POSCAR")


@pytest.mark.parametrize("selective", ["", "Selective dynamics\n"])
def test_positions_of_a_poscar_say_what_they_are(tmp_path: pathlib.Path, selective: str) -> None:
    """ASE takes every word but Cartesian for fractional."""
    path = tmp_path / "POSCAR"
    flags = " T T T" if selective else ""
    for word in ("Direct", "direct", "Cartesian", "K", "Fractional"):
        path.write_text(
            f"x\n1.0\n3 0 0\n0 3 0\n0 0 3\nC\n1\n{selective}{word}\n0.5 0.5 0.5{flags}\n"
        )
        at = 0.5 if word[0] in "CK" else 1.5
        assert read_poscar(path).positions[0, 0] == pytest.approx(at)
    for word in ("null", "", "0.5 0.5 0.5"):
        path.write_text(f"x\n1.0\n3 0 0\n0 3 0\n0 0 3\nC\n1\n{selective}{word}\n0.5 0.5 0.5\n")
        with pytest.raises(DataError, match="POSCAR: '.*' stands before the positions; Direct or"):
            read_poscar(path)
