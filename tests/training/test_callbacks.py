"""What a training shows and keeps of itself: progress, its log, its curves."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import functools
import io
import json
import logging
import os
import pathlib
import pty
import re
import struct
import termios
import threading
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import tqdm

from deeph_gformer.cli import main
from deeph_gformer.config import TrainingConfig
from deeph_gformer.errors import ConfigError
from deeph_gformer.results import Stage1Training, Training
from deeph_gformer.training.folder import LOG_FILE, locked
from deeph_gformer.training.module import rate_factor, warmup

from .test_training import command, dataset

Folder = Callable[..., pathlib.Path]


@pytest.fixture
def root(make_folder: Folder, tmp_path: pathlib.Path) -> pathlib.Path:
    """Two training structures and one for validation."""
    splits = {"train": ["s0", "s1"], "val": ["s2"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    return dataset(make_folder)


def on_a_terminal(words: list[str]) -> tuple[str, str]:
    """Run the command line with standard error on a terminal; what both streams got."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(parent, 4096):
                seen.append(piece)

    reader, out = threading.Thread(target=read), io.StringIO()
    reader.start()
    every = functools.partial(tqdm.tqdm, mininterval=0)
    with (
        open(child, "w", encoding="utf-8") as terminal,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(terminal),
        mock.patch.object(tqdm, "tqdm", every),
    ):
        code = main(words)
    reader.join()
    os.close(parent)
    err = b"".join(seen).decode()
    assert code == 0, err
    return out.getvalue(), err


@pytest.mark.parametrize("verb", ["train", "train-stage1"])
def test_a_terminal_sees_epoch_step_and_the_time_left(
    root: pathlib.Path, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, verb: str
) -> None:
    more = ["--stage1", str(tiny_stage1)] if verb == "train" else []
    words = command(verb, root, tmp_path / "run", *more, "--epochs", "3")
    out, err = on_a_terminal([*words, "--json", str(tmp_path / "r.json")])
    kind = Training if verb == "train" else Stage1Training
    assert kind.of(json.loads((tmp_path / "r.json").read_text())).more == {}
    assert "epoch 2 of 2, step 2 of 2" in err and "6/6" in err
    assert "<" in err.split("epoch 1 of 2, step 2 of 2")[0].rsplit("[", 1)[1]  # [gone<left, ...
    assert out.count("epoch     ") == 3 and ", step" not in out
    if verb == "train-stage1":
        return
    # the run goes on: the bar begins where it was
    _, err = on_a_terminal([*words, "--epochs", "5", "--resume"])
    assert "10/10" in err and "1/10" not in err and "7/10" in err
    _, err = on_a_terminal([*words[:-2], "--epochs", "3", "--output", str(tmp_path / "q"), "-q"])
    assert ", step" not in err


def test_the_log_of_a_run(
    root: pathlib.Path,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Everything that was said, also with ``-q``; a resumed run appends; nothing is shown twice."""
    run = tmp_path / "run"
    words = command("train", root, run, "--stage1", str(tiny_stage1), "--epochs", "2")
    assert main([*words, "-q"]) == 0
    streams = capsys.readouterr()
    assert ", step" not in streams.err and "note:" not in streams.err  # no terminal, and quiet
    said = [line for line in streams.out.splitlines() if line.startswith("epoch ")]
    first = (run / LOG_FILE).read_text()
    assert len(said) == 2 and all(line in first for line in said)
    assert "the learning rate rises over 0 of 4 steps" in first
    assert "validation and what is kept: the running average of the weights (0.99" in first
    assert main([*words, "--epochs", "3", "--resume"]) == 0
    both = (run / LOG_FILE).read_text()
    assert both.startswith(first) and both.count("| lr ") == 3
    assert "resumed: 2 of 3 epochs are done, 1 to go" in both
    # two more epochs stretch the cosine: it is said where the rate was and where it goes on
    rates = [float(text) for text in re.findall(r"\| lr (\S+)", both)]
    found = re.findall(r"the learning rate rises from (\S+) to (\S+): .* one of 3 epochs", both)
    assert found == [(f"{rates[1]:.2g}", f"{5e-3 * 0.5 * (1 + np.cos(np.pi * 2 / 3)):.2g}")]
    before = logging.getLogger("deeph_gformer").handlers
    assert main([*words, "--epochs", "4"]) == 2  # there is a run already
    assert (run / LOG_FILE).read_text() == both
    assert logging.getLogger("deeph_gformer").handlers == before


def test_no_log_of_a_run_of_which_nothing_is_kept(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "a" / "run"
    with pytest.raises(ConfigError, match="no"), locked(run, True):
        assert (run / LOG_FILE).is_file()
        raise ConfigError("no")
    assert not (tmp_path / "a").exists()
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="diverged"), locked(run, True):
        raise ConfigError("diverged")
    assert "ended: diverged" in (run / LOG_FILE).read_text()


def test_curves_have_the_rate_and_both_losses(
    root: pathlib.Path, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """In the CSV file and in TensorBoard's. The rate is that of a cosine, by its formula."""
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    run = tmp_path / "run"
    words = command("train", root, run, "--stage1", str(tiny_stage1))
    more = ["--set", "training.warmup_steps=0", "--set", "training.learning_rate=1e-3"]
    assert main([*words, *more, "--epochs", "4"]) == 0
    curves = event_accumulator.EventAccumulator(str(run / "logs" / "tensorboard"))
    curves.Reload()
    names = {"learning_rate", "train_loss", "val_loss", "train_mae_meV", "val_mae_meV"}
    assert names <= set(curves.Tags()["scalars"])
    rates = [event.value for event in curves.Scalars("learning_rate")]
    # 2 steps an epoch; the rate of the step to come, from 1e-3 to 1e-6
    cosine = [1e-6 + (1e-3 - 1e-6) * (1 + c) / 2 for c in (2**-0.5, 0.0, -(2**-0.5), -1.0)]
    assert rates == pytest.approx(cosine, rel=1e-5)
    with (run / "logs" / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert names <= set(rows[0])
    losses = [float(r["val_loss"]) for r in rows if r["val_loss"]]
    assert losses == pytest.approx([e.value for e in curves.Scalars("val_loss")], rel=1e-5)


@pytest.mark.parametrize(("steps", "expected"), [(5000, 100), (1000, 100), (300, 30), (4, 0)])
def test_warm_up_fits_short_runs(steps: int, expected: int) -> None:
    assert warmup(TrainingConfig(warmup_steps=100), steps) == expected


def test_the_rate_falls_to_its_floor_and_not_where_it_is_constant() -> None:
    settings = TrainingConfig(learning_rate=1e-2, min_learning_rate=1e-4, warmup_steps=10)
    assert rate_factor(settings, 1000, 0) == pytest.approx(0.1)
    assert rate_factor(settings, 1000, 500) == pytest.approx((1 + 0.01) / 2)
    assert rate_factor(settings, 1000, 1000) == rate_factor(settings, 1000, 1500) == 0.01
    constant = TrainingConfig(schedule="constant", warmup_steps=10)
    assert rate_factor(constant, 1000, 999) == 1.0


def test_a_model_that_is_worse_than_its_stage_1_says_so(
    root: pathlib.Path,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the end of training, in ``info``, and where DFT is known; a good one says nothing."""
    bad, good = tmp_path / "bad", tmp_path / "good"
    words = command("train", root, bad, "--stage1", str(tiny_stage1), "--epochs", "1")
    assert main([*words, "--set", "training.learning_rate=1.0"]) == 0
    ends = "is WORSE than stage 1 alone on "
    assert capsys.readouterr().err.count(f"{ends}the validation structures: ") == 1
    better = command("train", root, good, "--stage1", str(tiny_stage1), "--epochs", "25")
    assert main(better) == 0 and "WORSE" not in capsys.readouterr().err
    for run, count in ((bad, 1), (good, 0)):
        model = ["--model", str(run / "bundle"), "--stage1", str(tiny_stage1)]
        data = ["--preprocessed", str(root)]
        for folder in (run, run / "bundle"):
            assert main(["info", str(folder)]) == 0
            assert capsys.readouterr().out.count(f"warning: the refined H {ends}") == count
        assert main(["refine", *model, *data, "--output", str(run / "out")]) == 0
        assert capsys.readouterr().err.count(f"{ends}these structures: ") == count
        assert main(["evaluate", *model, *data, "--no-invariance", "--rotations", "0"]) == 0
        assert capsys.readouterr().err.count(f"{ends}these structures: ") == count
