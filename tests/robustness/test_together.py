"""Several processes, odd clocks, and places where nothing can be written."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable

import pytest

from deeph_gformer.cli import main
from deeph_gformer.errors import DataError
from deeph_gformer.interop.convert import convert
from deeph_gformer.io import locks
from deeph_gformer.io.files import atomic_path, entry_kind, is_filled, write_text

from ..conftest import tree

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
    folder, aside = tmp_path / "out", tmp_path / "aside"
    folder.mkdir()

    def replace() -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            os.rename(folder, aside)
            os.rename(aside, folder)

    def ask() -> None:
        end = time.monotonic() + 0.5
        seen = set()
        while time.monotonic() < end:
            seen.add(entry_kind(folder))
            is_filled(folder)
        assert seen == {"folder", None}

    assert forked(replace, ask) == [0, 0]
    (tmp_path / "file").touch()
    assert entry_kind(tmp_path / "file") == "file" and is_filled(tmp_path)


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
