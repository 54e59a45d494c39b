"""Trainings that are told to stop: real processes, real signals."""

from __future__ import annotations

import csv
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.io import files
from deeph_gformer.io.files import write_json
from deeph_gformer.io.replace import replaced_folder
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stopping import Stopped, shielded, stoppable
from deeph_gformer.training import run as training_run
from deeph_gformer.training import stage1 as training_stage1
from deeph_gformer.training.checkpoint import write_tensors
from deeph_gformer.training.folder import LOCK_FILE, locked

from ..conftest import ROOT
from .test_training import command, dataset

Folder = Callable[..., pathlib.Path]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(words: list[str], *before: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *before, "-m", "deeph_gformer", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Wait until a line of the output holds these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"'{words}' never came: {process.communicate()[1]}")


def prepare(make_folder: Folder, tmp_path: pathlib.Path) -> pathlib.Path:
    root = dataset(make_folder)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["s0", "s1"], "val": ["s2"]}))
    return root


def epochs(run: pathlib.Path) -> list[int]:
    """Epochs with a validation error in the CSV log."""
    with open(run / "logs" / "csv" / "metrics.csv", newline="") as file:
        return [int(r["epoch"]) for r in csv.DictReader(file) if r["val_mae_meV"]]


@pytest.mark.parametrize(
    ("verb", "number", "code"),
    [
        ("train", signal.SIGTERM, 143),
        ("train", signal.SIGINT, 130),
        ("train-stage1", signal.SIGTERM, 143),
    ],
)
def test_stopped_training_says_so_and_goes_on_from_its_folder(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    verb: str,
    number: int,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, run = prepare(make_folder, tmp_path), tmp_path / "run"
    more = ["--stage1", str(tiny_stage1)] if verb == "train" else []
    process = start(command(verb, root, run, *more, "--epochs", "100000"))
    read_until(process, "epoch     1 |")
    assert (run / LOCK_FILE).is_file()
    # a second job on the same folder: one line
    assert main([verb, "--resume", "--output", str(run)]) == 2
    assert f"is in use by process {process.pid} on" in capsys.readouterr().err
    process.send_signal(number)
    _, error = process.communicate(timeout=600)
    assert process.returncode == code
    lines = [line for line in error.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1 and "in epoch" in lines[0] and "of 100000" in lines[0]
    assert f"--resume --output {run}" in lines[0] and not (run / LOCK_FILE).exists()
    if verb == "train":
        assert load_bundle(run / "bundle").training["finished"] is False
    else:
        assert read_model_folder(run / "model").gauge != "unknown"
    seen = epochs(run)
    assert seen == list(range(len(seen))) and len(seen) >= 2
    # nothing but the run folder; the splits file is gone, too
    (tmp_path / "splits.json").unlink()
    more = ["--epochs", str(len(seen) + 2)]
    assert main([verb, "--resume", "--output", str(run), *more]) == 0
    assert epochs(run) == list(range(len(seen) + 2))
    if verb == "train":
        assert "finished" not in load_bundle(run / "bundle").training


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_early(make_folder: Folder, tmp_path: pathlib.Path, number: int, code: int) -> None:
    """While torch is being imported: the process sends itself the signal there."""
    root = prepare(make_folder, tmp_path)
    program = (
        "import os, sys\n"
        "def hook(event, values, left=[1]):\n"
        "    if event == 'import' and values[0] == 'torch.nn.functional' and left:\n"
        f"        left.clear(); os.kill(os.getpid(), {int(number)})\n"
        "sys.addaudithook(hook)\n"
        "from deeph_gformer.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = command("train-stage1", root, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == code, done.stderr[-500:]
    assert "deeph-gformer train-stage1: stopped by" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_stopped_ablation_goes_on(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    root = prepare(make_folder, tmp_path)
    (tmp_path / "splits.json").write_text(
        json.dumps({"train": ["s0"], "val": ["s1"], "test": ["s2"]})
    )
    words = ["ablate", "--preprocessed", str(root), "--splits", str(tmp_path / "splits.json")]
    words += ["--output", str(tmp_path / "out"), "--settings", "e3", "--every", "1"]
    sets = {
        "stage1.training.epochs": 100000,
        "stage1.training.threads": 1,
        "stage1.model.irreps_embed": "4x0e",
        "stage1.model.irreps_mid": "4x0e+3x1o+2x2e+1x3o",
        "stage1.model.num_blocks": 2,
    }
    for key, value in sets.items():
        words += ["--set", f"{key}={value}"]
    process = start(words)
    read_until(process, "epoch     1 |")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 143
    assert "in run e3, in epoch" in error and "the same command goes on there" in error
    assert read_model_folder(tmp_path / "out" / "e3" / "model").targets.blocks


def test_data_of_a_resumed_run_have_moved(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = prepare(make_folder, tmp_path), tmp_path / "run"
    assert main(command("train-stage1", root, run)) == 0
    (tmp_path / "splits.json").unlink()
    moved = root.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    words = ["train-stage1", "--resume", "--output", str(run), "--epochs", "3"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "the data of this run have moved or changed" in error and error.count("\n") == 1
    assert "--preprocessed DIR" in error
    assert main([*words, "--preprocessed", str(moved)]) == 0
    assert epochs(run) == [0, 1, 2]
    assert main([*words, "--preprocessed", str(moved)]) == 0  # all is done
    assert "3 of 3 epochs are done, nothing left to do" in capsys.readouterr().out
    assert main(["train-stage1", "--resume", "--output", str(tmp_path / "typo")]) == 2
    assert "typo: no run to resume here" in capsys.readouterr().err


def test_lock_of_a_dead_process_is_taken_over(tmp_path: pathlib.Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from deeph_gformer.training.folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), True):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(3600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    read_until(process, "mine")
    with pytest.raises(ConfigError, match=f"is in use by process {process.pid}"):
        with locked(tmp_path / "run", True):
            pass
    process.kill()
    process.wait()
    assert (tmp_path / "run" / LOCK_FILE).is_file()  # left behind
    with locked(tmp_path / "run", True):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK_FILE).read_text()
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_a_row_is_in_the_log_before_the_checkpoint_of_its_epoch(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies after the checkpoint goes on with the next epoch: nobody writes it later."""
    root, run = prepare(make_folder, tmp_path), tmp_path / "run"
    known: list[list[str]] = []

    def look(path: pathlib.Path, table: dict[str, object]) -> None:
        write_tensors(path, table)
        if path.name == "last.ckpt":
            with open(run / "logs" / "csv" / "metrics.csv", newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["epoch"]) == table["epoch"]]
            known.append([r["train_mae_meV"] for r in rows if r.get("train_mae_meV")])

    monkeypatch.setattr(training_run, "write_tensors", look)
    assert main(command("train-stage1", root, run)) == 0
    assert len(known) == 2 and all(len(values) == 1 for values in known)


def test_the_record_of_a_finished_run_comes_last(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has a record is not run again, so all else must be there: the overlap table, too."""
    root, run, there = prepare(make_folder, tmp_path), tmp_path / "run", []

    def look(path: pathlib.Path, record: object) -> None:
        there.append((run / "model" / "overlap.npz").is_file())
        write_json(path, record)

    monkeypatch.setattr(training_stage1, "write_json", look)
    assert main(command("train-stage1", root, run)) == 0
    assert there == [True]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO])
def test_a_log_that_cannot_be_written_is_one_line(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
) -> None:
    """TensorBoard's thread meets it first, and would print its traceback."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    root, printed = prepare(make_folder, tmp_path), []
    monkeypatch.setattr(RecordWriter, "write", fail)
    monkeypatch.setattr(threading, "excepthook", printed.append)
    assert main(command("train-stage1", root, tmp_path / "run")) == 2
    said = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("note:")]
    assert len(said) == 1 and f"could not be written ({os.strerror(code)})" in said[0]
    assert not printed


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as Python takes it, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["file", "folder"])
@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_while_something_is_begun_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int, how: str
) -> None:
    made: list[str] = []

    def killed(call: Callable[..., object]) -> Callable[..., object]:
        def inner(*args: object, **options: object) -> object:
            done = call(*args, **options)
            made.extend(p.name for p in tmp_path.iterdir())
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            return done

        return inner

    if how == "file":
        monkeypatch.setattr(files, "begin_file", killed(files.begin_file))
    else:
        monkeypatch.setattr(tempfile, "mkdtemp", killed(tempfile.mkdtemp))
    stop = (signal.SIGTERM,)  # Ctrl-C as Python takes it
    with pytest.raises((Stopped, KeyboardInterrupt)), stoppable(stop):
        if how == "file":
            files.write_text(tmp_path / "a", "text")
        else:
            with replaced_folder(tmp_path / "a"):
                pass
    assert len(made) == 1 and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_files_that_belong_together_are_finished_first() -> None:
    done = []
    with pytest.raises(Stopped) as stop, stoppable():
        with shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append(1)
        done.append(2)
    assert done == [1] and stop.value.code == 143
    with stoppable():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except Stopped as first:
            os.kill(os.getpid(), signal.SIGINT)  # while it tidies up: nothing
            assert first.code == 130


def test_a_signal_after_the_work_changes_nothing() -> None:
    """The command's work is done and Python is ending: exit code 0, and no second word."""
    program = (
        "import atexit, os, signal, sys\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    atexit.register(os.kill, os.getpid(), number)\n"
        "sys.argv = ['deeph-gformer']\n"
        "from deeph_gformer.cli import command\n"
        "sys.exit(command())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "physics of a Hamiltonian" in done.stdout


@pytest.mark.usefixtures("ctrl_c")
def test_a_script_that_runs_a_command_can_still_be_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deeph-gformer"])
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main() == 0 and "physics of a Hamiltonian" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
