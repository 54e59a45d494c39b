"""``info RUN``."""

from __future__ import annotations

import fcntl
import json
import pathlib
from collections.abc import Callable

import pytest

from deeph_gformer.cli import main
from deeph_gformer.config import TrainConfig, from_mapping
from deeph_gformer.errors import DataError
from deeph_gformer.report.run import describe_run
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.training.stage2 import train_gformer

from ..training.test_training import dataset, settings


def test_a_run_from_its_beginning_to_its_end(
    make_folder: Callable[..., pathlib.Path],
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "my run"
    values = settings(dataset(make_folder), run, epochs=3)
    values["stage1"] = str(tiny_stage1)
    train_gformer(from_mapping(TrainConfig, values), load_stage1(tiny_stage1))
    capsys.readouterr()
    assert main(["info", str(run), "--json", str(tmp_path / "i.json")]) == 0
    text = capsys.readouterr().out
    assert "state: finished" in text and "epochs: done 3, planned 3" in text
    table = json.loads((tmp_path / "i.json").read_text())
    assert table["kind"] == "run of train" and table["stage1"] == str(tiny_stage1)
    assert table["structures"] == {"train": 2, "val": 1, "test": 0}
    rows = (run / "logs" / "csv" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_mae_meV")
    values_there = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert table["best"]["validation_mae_meV"] == min(values_there)
    assert table["best"]["epoch"] == values_there.index(min(values_there))
    assert table["next"].startswith(f"deeph-gformer evaluate --model '{run}/bundle'")

    lock = run / "lock"
    with lock.open("w") as file:  # as a training holds it
        fcntl.flock(file, fcntl.LOCK_EX)
        assert describe_run(run)["state"] == "running"
    assert describe_run(run)["state"] == "finished"

    bundle = json.loads((run / "bundle" / "bundle.json").read_text())
    del bundle["training"]["validation"]  # what a stopped run leaves
    (run / "bundle" / "bundle.json").write_text(json.dumps(bundle))
    stopped = describe_run(run)
    assert stopped["state"] == "stopped"
    assert stopped["next"] == f"deeph-gformer train --resume --output '{run}'"
    (run / "checkpoints" / "last.ckpt").unlink()
    assert describe_run(run)["state"] == "not begun"
    (run / "config.json").write_text("{}")
    with pytest.raises(DataError, match="config.json: no configuration of a training run"):
        describe_run(run)


@pytest.mark.parametrize(("monitor", "best"), [("mae", 2), ("states", 1), ("both", 1)])
def test_the_best_epoch_is_that_of_the_monitor(
    monitor: str, best: int, tmp_path: pathlib.Path
) -> None:
    """The states are judged in epochs 0 and 1, so that epoch 2 has the score of epoch 1."""
    config = {"training": {"epochs": 3, "monitor": monitor}, "data": {"preprocessed": "data"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "splits.json").write_text('{"train": ["a"], "val": ["b"], "test": []}')
    (tmp_path / "logs" / "csv").mkdir(parents=True)
    (tmp_path / "logs" / "csv" / "metrics.csv").write_text(
        "epoch,step,val_mae_meV,val_score\n0,1,3.0,9.0\n1,2,4.0,5.0\n2,3,2.5,5.0\n"
    )
    found = describe_run(tmp_path)["best"]
    assert found == {"validation_mae_meV": [3.0, 4.0, 2.5][best], "epoch": best}
