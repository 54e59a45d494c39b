"""Several processes, odd clocks, and places where nothing can be written."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable

import numpy as np
import pytest

import deeph_gformer.interop.convert as convert_module
import deeph_gformer.io.folder as folder_module
from deeph_gformer.cli import main
from deeph_gformer.errors import DataError
from deeph_gformer.interop.convert import convert
from deeph_gformer.io import legacy, locks, read_folder, read_matrix
from deeph_gformer.io.files import atomic_path, entry_kind, is_filled, write_text
from deeph_gformer.io.folder import find_structures, folder_format, has_matrix, replaced_folder
from deeph_gformer.stopping import Stopped, stoppable

from ..conftest import random_structure, tree

Folder = Callable[..., pathlib.Path]


def forked(*works: Callable[[], object]) -> list[int]:
    """Exit codes of works that run at once, in a process each; 9: an error that is no exit code."""
    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            code = 9
            sys.stdout = sys.stderr = open(os.devnull, "w")  # a file would have its limit, too
            with contextlib.suppress(BaseException):
                code = int(work() or 0)  # type: ignore[call-overload]
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: pathlib.Path) -> None:
    texts = [str(n) * 10**5 for n in range(4)]
    path = tmp_path / "a.txt"

    def work(text: str) -> None:
        for _ in range(30):
            with atomic_path(path) as temporary:
                for start in range(0, len(text), 25_000):
                    with open(temporary, "a") as handle:
                        handle.write(text[start : start + 25_000])
            assert path.read_text() in texts

    assert forked(*(lambda t=t: work(t) for t in texts)) == [0] * 4
    assert os.listdir(tmp_path) == ["a.txt"] and path.read_text() in texts


def test_what_a_dead_process_left_goes_with_the_next_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.txt"

    def die() -> None:
        with atomic_path(path):
            os._exit(7)

    assert forked(die) == [7] and os.listdir(tmp_path) == [".a.txt.0.tmp"]
    with atomic_path(path) as mine:  # one of a living process stays
        write_text(path, "b")
        assert mine.exists()
        mine.write_text("c")
    assert os.listdir(tmp_path) == ["a.txt"] and path.read_text() == "c"


def test_temporary_names_are_nobody_elses(tmp_path: pathlib.Path) -> None:
    """A link, a folder, or a file of others under such a name is neither followed nor lost."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".a.txt.0.tmp").mkdir()
    (tmp_path / ".b.txt.0.tmp").symlink_to(tmp_path / "precious")
    for name in ("a.txt", "b.txt"):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text" and not (tmp_path / name).is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / ".a.txt.0.tmp").is_dir()


def test_long_names(tmp_path: pathlib.Path) -> None:
    path = tmp_path / ("é" * 127)
    write_text(path, "text")
    assert path.read_text() == "text" and len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("how", ["skip_existing", "overwrite"])
def test_two_conversions_at_once(make_folder: Folder, tmp_path: pathlib.Path, how: str) -> None:
    for n in range(3):
        make_folder(f"s{n}", seed=n, atoms=2)
    options = {how: True}
    convert(tmp_path / "data", tmp_path / "wanted", "dock")

    def work() -> int:
        for _ in range(3):
            try:
                convert(tmp_path / "data", tmp_path / "out", "dock", **options)  # type: ignore
            except DataError as error:
                return 0 if "there" in str(error) else 3
        return 0

    codes = forked(work, work, work)
    assert set(codes) <= {0, 2}, codes
    convert(tmp_path / "data", tmp_path / "out", "dock", **options)  # type: ignore
    assert tree(tmp_path / "out") == tree(tmp_path / "wanted")


def test_a_folder_is_never_taken_for_a_file(tmp_path: pathlib.Path) -> None:
    """While another process replaces it: it is a folder or, for an instant, not there."""
    folder, aside, done = tmp_path / "out", tmp_path / "aside", tmp_path / "done"
    folder.mkdir()

    def replace() -> None:
        while not done.exists():
            os.rename(folder, aside)
            os.rename(aside, folder)

    def ask() -> None:
        seen, asked = set(), 0
        try:
            while asked < 5000 or (len(seen) < 2 and asked < 10**7):
                asked += 1
                seen.add(entry_kind(folder))
                is_filled(folder)
            assert seen == {"folder", None}
        finally:
            done.touch()

    assert forked(replace, ask) == [0, 0]
    (tmp_path / "file").touch()
    assert entry_kind(tmp_path / "file") == "file" and is_filled(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs renameat2")
def test_a_folder_is_always_there_while_it_is_replaced(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = make_folder("s0", atoms=2), list[bool]()
    (folder / "notes.txt").write_text("mine")

    def watched(call: Callable[..., None]) -> Callable[..., None]:
        def inner(*args: object, **options: object) -> None:
            seen.append(folder_format(folder) is not None)
            call(*args, **options)
            seen.append(folder_format(folder) is not None)

        return inner

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    with replaced_folder(folder) as scratch:
        legacy.write_structure(scratch, random_structure(1, 2)[0])
    assert len(seen) > 20 and all(seen)
    assert (folder / "notes.txt").read_text() == "mine"
    assert read_folder(folder).same_as(random_structure(1, 2)[0], 1e-12)
    assert [p.name for p in folder.parent.iterdir()] == ["s0"]


def test_a_matrix_of_another_state_than_its_structure(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    """Equal atoms in other places: H and positions of two states would give wrong bands."""
    for form in ("legacy", "dock"):
        out = tmp_path / form
        convert(make_folder("a", seed=1, grouped=True), out, form)
        structure = read_folder(out)
        info = out / "info.json"
        info.write_text(info.read_text() + "\n")  # as refine, which writes beside DFT's H
        h = read_matrix(out, "hamiltonian", structure)
        convert(make_folder("b", seed=2, grouped=True), out, form, overwrite=True)
        for kind in ("hamiltonian", "overlap"):
            with pytest.raises(DataError, match=f"{form}: another process replaced it while"):
                read_matrix(out, kind, structure)  # type: ignore[arg-type]
        new = read_matrix(out, "hamiltonian", read_folder(out))
        assert len(new) == len(h) and not np.array_equal(new.values, h.values)


def test_a_prediction_goes_with_its_info(make_folder: Folder) -> None:
    """Its Fermi level is in info.json."""
    folder = make_folder("a")
    shutil.copy(folder / "hamiltonians.h5", folder / "hamiltonians_pred.h5")
    structure = read_folder(folder)
    read_matrix(folder, "prediction", structure)
    write_text(folder / "info.json", (folder / "info.json").read_text().replace("0.5", "0.75"))
    with pytest.raises(DataError, match="another process replaced it.*if you changed info.json"):
        read_matrix(folder, "prediction", structure)
    read_matrix(folder, "hamiltonian", structure)


def test_a_structure_is_read_again_that_is_replaced_meanwhile(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (make_folder(name, seed=n, atoms=2) for n, name in enumerate("ab"))
    wanted, real = read_folder(b), legacy._read_shells
    (b / "lat.dat").write_text((b / "lat.dat").read_text() + "\n")

    def once(path: pathlib.Path) -> object:
        monkeypatch.setattr(legacy, "_read_shells", real)
        found = real(path)  # the first file is read: the others are of the next state
        shutil.rmtree(a)
        b.rename(a)
        return found

    monkeypatch.setattr(legacy, "_read_shells", once)
    assert read_folder(a).same_as(wanted, 0.0)


def test_folders_in_the_making_are_no_structures(make_folder: Folder) -> None:
    folder = make_folder("s0")
    for name in (".s0.abc.tmp", ".s0.abc.old"):
        shutil.copytree(folder, folder.parent / name)
    assert find_structures(folder.parent) == [folder]


@pytest.mark.parametrize("skip", [False, True])
def test_a_folder_that_another_process_makes_meanwhile_is_kept(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, skip: bool
) -> None:
    a, b = (make_folder(name, seed=n, atoms=2) for n, name in enumerate("ab"))
    out, real = tmp_path / "out", convert_module.rewrite_folder

    def later(*args: object) -> object:
        monkeypatch.setattr(convert_module, "rewrite_folder", real)
        convert(b, out, "dock")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(convert_module, "rewrite_folder", later)
    if skip:
        assert convert(a, out, "dock", skip_existing=True)[0]["skipped"]
    else:
        with pytest.raises(DataError, match="is there already and not empty"):
            convert(a, out, "dock")
    convert(b, tmp_path / "wanted", "dock")
    assert tree(out) == tree(tmp_path / "wanted")


def test_what_belongs_together_takes_its_names_alone(tmp_path: pathlib.Path) -> None:
    """Of two predictions of a structure the second waits: none gets the info.json of the other."""
    path = tmp_path / "s0" / "h"
    free = []

    def before() -> None:
        free.append(locks.lock_folder(tmp_path))

    with atomic_path(path, before=before) as temporary:
        temporary.write_text("text")
    assert free == [None]  # nobody else could have it
    descriptor = locks.lock_folder(tmp_path)
    assert descriptor is not None
    os.close(descriptor)


def test_a_prediction_that_is_being_replaced_is_waited_for(
    make_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder("a")
    path = folder / "hamiltonians_pred.h5"
    assert not has_matrix(folder, "prediction")
    monkeypatch.setattr(folder_module, "await_writers", lambda _: path.touch())
    assert has_matrix(folder, "prediction")


def test_who_waits_says_so(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The lock of one that was halted is waited for, and then done without."""
    halted = locks.lock_folder(tmp_path)
    assert halted is not None
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    monkeypatch.setattr(locks, "_SILENT", 0.0)
    with replaced_folder(tmp_path / "s0") as scratch:
        legacy.write_structure(scratch, random_structure(1, 2)[0])
    os.close(halted)
    assert read_folder(tmp_path / "s0").same_as(random_structure(1, 2)[0], 1e-12)
    assert caplog.messages[0] == f"{tmp_path}: another process has it locked; " + (
        "waiting, 0.05 s at most"
    )


def test_who_waits_can_be_stopped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halted, waits = locks.lock_folder(tmp_path), list[float]()
    assert halted is not None

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    monkeypatch.setattr(locks, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with pytest.raises(Stopped), stoppable(), replaced_folder(tmp_path / "s0"):
        pytest.fail("begun after a stop")
    os.close(halted)
    assert len(waits) == 1 and not any(tmp_path.iterdir())


@pytest.mark.parametrize("now", [0.0, 2.0**33, -1.0])
def test_the_clock_does_not_matter(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, now: float
) -> None:
    """Times in files and of the system may lie anywhere: what is whole is told otherwise."""
    folder = make_folder("s0", atoms=2)
    convert(folder, tmp_path / "wanted", "dock")
    monkeypatch.setattr(time, "time", lambda: now)
    for path in (*folder.iterdir(), folder):
        os.utime(path, (2**31, 2**31) if now == 0 else (0, 0))
    convert(folder, tmp_path / "out", "dock")
    convert(folder, tmp_path / "out", "dock", overwrite=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "wanted")


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no second file system here")
def test_output_on_another_file_system(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    folder = make_folder("s0", atoms=2)
    other = pathlib.Path("/dev/shm") / f"deeph-gformer-{os.getpid()}"
    other.mkdir()
    try:
        (tmp_path / "out").symlink_to(other / "out")
        for _ in range(2):
            convert(folder, tmp_path / "out", "dock", overwrite=True)
        convert(folder, tmp_path / "wanted", "dock")
        assert tree(other / "out") == tree(tmp_path / "wanted")
        assert (tmp_path / "out").is_symlink() and os.listdir(other) == ["out"]
    finally:
        shutil.rmtree(other)


@pytest.mark.parametrize("limit", [0, 300, 5000])
def test_no_room_for_large_files(
    make_folder: Folder, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], limit: int
) -> None:
    """``ulimit -f``, as a quota: one line, nothing half, and the same command works later."""
    import resource
    import signal

    folder = make_folder("s0", atoms=2)

    def work() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return main(["convert", str(folder), str(tmp_path / "out"), "--to", "dock"])

    capfd.readouterr()
    assert forked(work) == [2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "dock"]) == 0


def test_locks_are_not_needed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On file systems without locks files are written, too; what is left stays there."""
    monkeypatch.setattr(locks, "lock_folder", lambda _: None)
    (tmp_path / ".a.txt.0.tmp").write_text("of somebody")
    write_text(tmp_path / "a.txt", "text")
    assert sorted(os.listdir(tmp_path)) == [".a.txt.0.tmp", "a.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_folder_that_may_only_be_read_is_replaced_without_leftovers(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    data, out = make_folder("a").parent, tmp_path / "out"
    convert(data, out, "dock")

    def work() -> None:
        none = (ctypes.c_uint32 * 6)()  # root, too, is held back
        assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), none) == 0
        convert(data, out, "dock", overwrite=True)

    (out / "a").chmod(0o555)
    assert forked(work) == [0]
    (out / "a").chmod(0o755)
    assert os.listdir(out) == ["a"] and (out / "a" / "POSCAR").is_file()
