"""What a run that goes on refuses: damaged checkpoints, another stage 1, changed settings, stale
features; each of them would give other numbers in silence."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from deeph_gformer.cli import main
from deeph_gformer.data.dataset import load_sample
from deeph_gformer.errors import DataError
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.training.batches import FeatureCache
from deeph_gformer.training.checkpoint import RUN, read_checkpoint
from deeph_gformer.training.curve import read_rows

from ..conftest import write_tiny_stage1
from .test_training import command, dataset

Folder = Callable[..., pathlib.Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A training of one epoch, with the data, the stage 1 and the run folder beside each other."""
    from ..robustness import cases

    root = tmp_path_factory.mktemp("run")
    cases._data(root)
    write_tiny_stage1(root / "stage1")
    words = ["--stage1", str(root / "stage1"), "--set", "training.epochs=1"]
    assert main(command("train", root / "data", root / "run", *words)) == 0
    return root


@pytest.fixture
def copy(run: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the run folder alone; its data stay where they are."""
    shutil.copytree(run / "run", tmp_path / "run")
    return tmp_path / "run"


def resume(folder: pathlib.Path, *more: str) -> int:
    words = ["train", "--resume", "--output", str(folder), "--set", "training.epochs=1"]
    return main([*words, *more])


def test_a_flipped_bit_is_noticed(copy: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch.load itself takes it for another weight."""
    path = copy / "checkpoints" / "last.ckpt"
    data = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["state_dict"]
    value = next(v for n, v in weights.items() if v.numel() > 50 and "weight" in n)
    place = bytes(data).index(value.numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    with pytest.raises(DataError, match="does not fit its checksum.*copy best.ckpt over it"):
        read_checkpoint(path)
    assert resume(copy) == 2 and "damaged" in capsys.readouterr().err


def test_a_run_without_averaged_weights_goes_on(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Its weights are in an OrderedDict, as those of earlier versions are."""
    words = ["--stage1", str(run / "stage1"), "--set", "training.ema=0"]
    words = command("train", run / "data", tmp_path / "run", *words)
    assert main([*words, "--set", "training.epochs=1"]) == 0
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    table = torch.load(path, weights_only=True)
    del table[RUN]
    torch.save(table, path)
    assert main([*words, "--set", "training.epochs=2", "--resume"]) == 0
    assert read_checkpoint(path)["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("epoch"), "no 'epoch'"),
        (lambda t: t.update(epoch=-1), "epoch -1"),
        (lambda t: t.update(callbacks=[1]), "no 'callbacks'"),
        (lambda t: t.update(optimizer_states=[]), "no state of an optimiser"),
        (lambda t: _first(t, lambda v: v.to(torch.float16)), "of type torch.float16"),
        (lambda t: _first(t, lambda v: v.to(torch.float32)), "is of another network"),
        (lambda t: _first(t, lambda v: v.to(torch.bool)), "is of another network"),
        (lambda t: _first(t, lambda v: v.reshape(-1)[:1]), "is of another network"),
        (lambda t: _first(t, lambda v: v * float("nan")), "holds NaN"),
        (lambda t: _first(t, torch.Tensor.to_sparse), "no plain tensor"),
        (lambda t: t.update(callbacks=dict.fromkeys(t["callbacks"], 3)), "does not fit"),
        (lambda t: t.update({RUN: 3}), "does not say which run"),
    ],
)
def test_checkpoints_are_checked(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str], change: Any, words: str
) -> None:
    path = copy / "checkpoints" / "last.ckpt"
    table = torch.load(path, weights_only=True)
    change(table)
    torch.save(table, path)
    assert resume(copy) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("error: ") == 1


def _first(table: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = table["state_dict"]
    name = next(n for n, v in state.items() if v.dtype == torch.float64 and v.numel() > 50)
    state[name] = change(state[name])


def test_a_run_of_an_earlier_network_says_what_to_do(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "checkpoints" / "last.ckpt"
    table = torch.load(path, weights_only=True)
    del table["state_dict"][next(iter(table["state_dict"]))], table[RUN]
    torch.save(table, path)
    assert resume(copy) == 2
    assert "start a new one from its bundle, with --from" in capsys.readouterr().err


def test_changed_settings_and_splits_of_a_run_are_noticed(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder's own files are what --resume --output RUN goes by."""
    path = copy / "config.json"
    table = json.loads(path.read_text())
    table["training"]["learning_rate"] *= 2
    path.write_text(json.dumps(table))
    assert resume(copy) == 2
    said = capsys.readouterr().err
    assert "config.json: was changed after the training wrote it (training.learning_rate)" in said


def test_another_digit_in_the_curve_is_noticed(
    run: pathlib.Path, copy: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "logs" / "csv" / "metrics.csv"
    lines = path.read_text().splitlines()
    values = lines[1].split(",")
    place = next(n for n, v in enumerate(values) if "." in v)
    good, values[place] = values[place], values[place][:-1] + str((int(values[place][-1]) + 1) % 10)
    path.write_text("\n".join([lines[0], ",".join(values), *lines[2:], ""]))
    words = ["--set", "training.epochs=2"]
    assert resume(copy, *words) == 2
    assert "metrics.csv: its rows are not those of the checkpoint" in capsys.readouterr().err
    path.write_text("")  # no rows are other rows
    assert resume(copy, *words) == 2
    assert "metrics.csv: its rows are not those of the checkpoint" in capsys.readouterr().err
    path.unlink()
    assert resume(copy, *words) == 0
    assert "not there, so the curve begins with epoch 1" in capsys.readouterr().err
    assert path.read_text().splitlines()[1:] and ",0," not in path.read_text()
    shutil.copytree(run / "run", copy, dirs_exist_ok=True)
    values[place] = good  # and one that is the checkpoint's, with a row that a death cut short
    path.write_text("\n".join([lines[0], ",".join(values), *lines[2:], values[0][:1]]))
    assert resume(copy, *words) == 0
    later = path.read_text().splitlines()
    assert later[1:3] == lines[1:3] and len(later) == 5


@pytest.mark.parametrize("name", ["log.txt", "logs/csv/metrics.csv", "checkpoints/last.ckpt"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    words = ["train", "--resume", "--output", str(copy), "--set", "training.epochs=2"]
    assert main(words) == 2
    assert f"{name}: is a device, pipe or socket" in capsys.readouterr().err


def test_another_stage_1_in_its_place(
    run: pathlib.Path, copy: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = run / "stage1.kept"
    shutil.move(run / "stage1", kept)
    try:
        write_tiny_stage1(run / "stage1", seed=5)
        assert resume(copy) == 2
        assert "last.ckpt: was made on another stage 1" in capsys.readouterr().err
    finally:
        shutil.rmtree(run / "stage1")
        shutil.move(kept, run / "stage1")


def _element(name: str) -> Callable[[pathlib.Path], None]:
    """Add 1e-3 to one element of a matrix."""

    def change(folder: pathlib.Path) -> None:
        with h5py.File(folder / name, "r+") as handle:
            value = handle["[0, 0, 0, 1, 1]"][()]
            value[0, 0] += 1e-3
            handle["[0, 0, 0, 1, 1]"][...] = value

    return change


def _moved(folder: pathlib.Path) -> None:
    """Move one atom by 1e-3 Å."""
    path = folder / "site_positions.dat"
    places = np.loadtxt(path)
    places[0, 0] += 1e-3
    np.savetxt(path, places)


def _rounded(folder: pathlib.Path) -> None:
    """Positions of eleven digits, as another program writes them."""
    path = folder / "site_positions.dat"
    np.savetxt(path, np.loadtxt(path), fmt="%.11f")


@pytest.mark.parametrize("name", ["s1", "s2"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_element("hamiltonians.h5"), "other data: H of {} changed since"),
        (_moved, "other data: edges of {}"),
        (_rounded, "no epoch was run"),
    ],
)
def test_data_that_changed_between_two_runs_are_noticed(
    run: pathlib.Path,
    copy: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[pathlib.Path], None],
    words: str,
) -> None:
    """Of training (s1) and validation (s2); not what other digits leave."""
    data = copy.parent / "data"
    shutil.copytree(run / "data", data)
    change(data / name)
    assert resume(copy, "--preprocessed", str(data)) == 2
    assert words.format(name) in capsys.readouterr().err


def test_rows_of_epochs_are_there_once(tmp_path: pathlib.Path) -> None:
    """A row of training and one of validation for each epoch."""
    path, head = tmp_path / "metrics.csv", "epoch,train_mae_meV,val_mae_meV"
    rows = [line for n in range(4) for line in (f"{n},1.5,", f"{n},,2.5")]

    def read(*lines: str) -> int:
        path.write_text("\n".join([head, *lines, ""]))
        return len(read_rows(path, 3))

    assert read(*rows) == 6 and read(*rows[4:]) == 2  # a curve may begin later
    for number in (0, 1):
        with pytest.raises(DataError, match=f"line {number + 3} is there twice"):
            read(*rows[: number + 1], *rows[number:])
    with pytest.raises(DataError, match="a row is missing before line 5"):
        read(*rows[:2], *rows[3:])


def test_features_of_another_network_or_structure_are_made_again(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder, 2)
    one = load_stage1(write_tiny_stage1(tmp_path / "one"))
    two = load_stage1(write_tiny_stage1(tmp_path / "two", seed=5))
    samples = [
        load_sample(root / name, one.targets, "hamiltonians", torch.float64)
        for name in ("s0", "s1")
    ]
    place = tmp_path / "cache"

    def sums(stage1: Any, number: int) -> torch.Tensor:
        found = FeatureCache(stage1, "disk", place).get(samples[number])[1]
        assert found is not None
        return found

    wanted = [[stage1(s.graph).direct_sum for s in samples] for stage1 in (one, two)]
    assert not torch.equal(wanted[0][0], wanted[1][0])
    assert torch.equal(sums(one, 0), wanted[0][0])
    assert torch.equal(sums(two, 0), wanted[1][0])  # another network
    sums(two, 1)
    shutil.copy(place / "s1.pt", place / "s0.pt")  # another structure
    assert torch.equal(sums(two, 0), wanted[1][0])
    data = bytearray((place / "s0.pt").read_bytes())  # a flipped bit
    data[bytes(data).index(wanted[1][0].numpy().tobytes())] ^= 1
    (place / "s0.pt").write_bytes(data)
    assert torch.equal(sums(two, 0), wanted[1][0])
    (place / "s0.pt").write_bytes(b"x")
    assert torch.equal(sums(two, 0), wanted[1][0])
    changes: dict[str, Callable[[torch.Tensor], Any]] = {  # each a file that is whole
        "integers": lambda x: x.long(),
        "sparse": lambda x: x.to_sparse(),
        "other numbers": lambda x: x * 1.01,
        "single precision": lambda x: x.float(),
        "no tensor": lambda x: "x",
    }
    for part, where in (("node", 1), ("edge", 2), ("sums", 3)):
        for name, change in changes.items():
            content = torch.load(place / "s0.pt", weights_only=True)
            if where == 3:
                content[3] = change(content[3])
            else:
                content[where][0] = change(content[where][0])
            torch.save(content, place / "s0.pt")
            entry = FeatureCache(two, "disk", place).get(samples[0])
            assert torch.equal(entry[1], wanted[1][0]), (part, name)
            for kept, good in zip(entry[0].edge, two(samples[0].graph).edge, strict=True):
                assert torch.equal(kept, good), (part, name)
    del content[1][0]
    torch.save(content, place / "s0.pt")
    assert torch.equal(sums(two, 0), wanted[1][0])


def test_rows_of_a_damaged_curve(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,a\n0,1\n1,2\n2,")  # a death cut the last line
    assert [r["a"] for r in read_rows(path, 2)] == ["1", "2"]
    path.write_text("epoch,a\n0,1\n1,2\n2,3\n3,4\n4,5\n")  # best.ckpt in the place of last.ckpt
    assert [r["a"] for r in read_rows(path, 1)] == ["1"]
    for text in ("epoch,a\n0,1\nx,2\n2,3\n", "b,a\n0,1\n1,2\n", "epoch,a\n0,1,7\n1,2\n"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"line \d is no row of an epoch; delete it"):
            read_rows(path, 2)
