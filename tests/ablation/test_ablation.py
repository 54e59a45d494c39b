"""The eight settings on made-up structures."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.ablation.run import AblationConfig, ablate
from deeph_gformer.ablation.settings import (
    SETTINGS,
    model_config,
    scaled_network,
    stage1_parameters,
)
from deeph_gformer.ablation.tables import metrics_of
from deeph_gformer.ablation.training import differences
from deeph_gformer.cli import main
from deeph_gformer.config import GFormerConfig, TrainingConfig, from_mapping, load_yaml
from deeph_gformer.data.dataset import load_sample
from deeph_gformer.errors import ConfigError, DataError, ModelError
from deeph_gformer.gformer.bundle import Bundle, load_bundle
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.io import read_matrix
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction.identity import GFormerStage1
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.cascade import CascadedStage1
from deeph_gformer.stage1.conformance import check_provider
from deeph_gformer.training.batches import FeatureCache, collate, rotate_batch
from deeph_gformer.training.folder import held
from deeph_gformer.training.module import Stage2Task

from ..conftest import ROOT, write_tiny_stage1

Folder = Callable[..., pathlib.Path]
RECIPES = sorted((ROOT / "examples" / "deeph_benchmarks").glob("*.yaml"))
NETWORK = {
    "irreps_embed": "4x0e",
    "irreps_mid": "4x0e+3x1o+2x2e+1x3o",
    "num_blocks": 2,
    "cutoff_radius": 5.0,
}
#: Structures whose edges reach equally far: a model refuses longer ones than it was trained on.
SEEDS = (4, 5, 6, 8)
SMALL = {"width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4}


def data(
    make_folder: Folder, tmp_path: pathlib.Path, count: int = 4, spinful: bool = False
) -> dict[str, Any]:
    """Made-up structures in three splits, and a further test set."""
    for n in range(count):
        make_folder(f"s{n}", seed=SEEDS[n], atoms=4, spinful=spinful)
    make_folder("t0", seed=15, atoms=4, spinful=spinful, root=tmp_path / "twisted")
    return {
        "preprocessed": str(tmp_path / "data"),
        "train_ratio": 0.5,
        "val_ratio": 0.25,
        "gauge": "raw",
    }


def settings(make_folder: Folder, tmp_path: pathlib.Path, **changes: Any) -> dict[str, Any]:
    training = {
        "epochs": 2,
        "threads": 1,
        "device": "cpu",
        "warmup_steps": 2,
        "learning_rate": 5e-3,
    }
    return {
        "data": data(make_folder, tmp_path),
        "tests": {"twisted": str(tmp_path / "twisted")},
        "model": SMALL,
        "training": training,
        "output": str(tmp_path / "out"),
        "stage1": {
            "model": NETWORK,
            "dtype": "float64",
            "training": {**training, "hermitian": False},
        },
        **changes,
    }


def run(values: dict[str, Any]) -> dict[str, Any]:
    return ablate(from_mapping(AblationConfig, values))


def test_all_settings(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row is trained, read back, evaluated on both test sets and written.

    a second call only reads.
    """
    values = settings(make_folder, tmp_path, settings=[*SETTINGS])
    values["training"]["epochs"] = values["stage1"]["training"]["epochs"] = 1
    table = run(values)
    out = tmp_path / "out"
    rows = {row["setting"]: row for row in table["rows"]}
    assert list(rows) == list(SETTINGS)
    for kind, row in rows.items():
        assert set(row["tests"]) == {"test", "twisted"} and row["training_seconds"] > 0
        for metrics in row["tests"].values():
            assert 0 < metrics["mae_all_meV"] < 1e4 and metrics["gauge_free_mae_all_meV"] > 0
            alone = kind in ("gformer", "gformer+gformer", "e3+gformer-cov")
            assert (metrics["equivariance_error_meV"] > 1e-6) == alone, (
                kind
            )  # arch paper is not equivariant
    parameters = {kind: row["parameters"] for kind, row in rows.items()}
    assert (
        parameters["e3+gformer-att"]
        < parameters["e3+gformer"]
        > parameters["e3"]
        < parameters["e3+e3"]
        == 2 * parameters["e3"]
    )
    assert (
        parameters["gformer+gformer"] == 2 * parameters["gformer"]
        and abs(parameters["e3-big"] / parameters["e3+gformer"] - 1) < 0.2
    )
    assert rows["e3"]["tests"]["test"]["ratio_to_e3"] == pytest.approx(1.0)
    # what -cas, -cov and -att mean
    bundles = {
        kind: load_bundle(out / kind / "bundle")
        for kind in rows
        if SETTINGS[kind].second == "gformer"
    }
    assert not bundles["e3+gformer-cas"].cascade and bundles["e3+gformer-cas"].features
    cov = bundles["e3+gformer-cov"]
    assert (
        cov.cascade
        and not cov.features
        and cov.model.config.alpha == cov.model.config.beta == cov.model.config.lam == 0
        and cov.model.invariant is None
    )
    assert (
        bundles["e3+gformer-att"].model.config.attention == "mean"
        and bundles["gformer"].stage1 is None
    )
    assert len({len(b.model.groups) for b in bundles.values()}) == 1
    # every file of the table
    assert "MAE_all^H" in capsys.readouterr().out
    lines = list(csv.DictReader((out / "table.csv").open()))
    assert (
        len(lines) == 2 * len(SETTINGS)
        and float(lines[0]["mae_all_meV"]) == rows["e3"]["tests"]["test"]["mae_all_meV"]
    )
    assert (out / "table.tex").read_text().count(r"\\") == len(SETTINGS) + 2 and (
        out / "table.md"
    ).read_text().count("S1_DeepHE3 + S2_GFormer -cov") == 2
    assert json.loads((out / "table.json").read_text())["rows"][0]["setting"] == "e3"
    # nothing is done again
    stamps = {
        p: p.stat().st_mtime_ns
        for p in out.rglob("*")
        if p.is_file() and not p.name.startswith("table") and p.parent != out
    }
    again = run({**values, "settings": ["e3+gformer", "e3"]})
    assert [row["setting"] for row in again["rows"]] == ["e3+gformer", "e3"] and again["rows"][
        0
    ] == rows["e3+gformer"]
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


def test_two_at_once_do_not_share_an_output(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    """The second one would remove the run that the first is at."""
    values = settings(make_folder, tmp_path)
    out = pathlib.Path(values["output"])
    with held(out), pytest.raises(ConfigError, match="in use by process .*choose another output"):
        run(values)
    assert not out.exists()


def test_second_networks_learn_the_residual(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    """What e3+e3 and gformer+gformer predict is the first network plus the second, and validation
    saw the same numbers."""
    values = settings(make_folder, tmp_path, settings=["e3+e3", "gformer+gformer"])
    run(values)
    out = tmp_path / "out"
    name = json.loads((out / "splits.json").read_text())["val"][0]
    folder = tmp_path / "data" / name
    truth = read_matrix(folder, "hamiltonian")
    first = deeph_gformer.load(stage1=out / "e3" / "model")
    second = deeph_gformer.load(stage1=out / "e3+e3" / "model")
    total = sum(
        m.predict(folder, edges="hamiltonians", hermitian=False).hamiltonian.values
        for m in (first, second)
    )
    seen = json.loads((out / "e3+e3" / "finished.json").read_text())["best_val_mae_meV"]
    assert np.abs(total - truth.values).mean() * 1e3 == pytest.approx(seen, rel=1e-6)
    both = deeph_gformer.load(out / "gformer+gformer" / "bundle", stage1=out / "gformer" / "bundle")
    assert isinstance(both.stage1, GFormerStage1)
    made = both.predict(folder, edges="hamiltonians")
    seen = json.loads((out / "gformer+gformer" / "finished.json").read_text())["best_val_mae_meV"]
    assert np.abs(made.hamiltonian.values - truth.values).mean() * 1e3 == pytest.approx(
        seen, rel=1e-6
    )
    alone = deeph_gformer.load(out / "gformer" / "bundle").predict(folder, edges="hamiltonians")
    assert (
        np.array_equal(alone.hamiltonian.values, made.stage1.values)
        and np.abs(alone.stage1.values).max() == 0
    )
    other = load_bundle(out / "gformer" / "bundle")
    other.model.embedding.node.bias += 0.1
    with pytest.raises(ModelError, match="its parameters differ"):
        HamiltonianModel(GFormerStage1(other), load_bundle(out / "gformer+gformer" / "bundle"))


def test_second_networks_start_where_the_first_is(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    """Hardly trained, every cascade equals its first network."""
    values = settings(
        make_folder, tmp_path, settings=["e3", "e3+e3", "e3+gformer", "e3+gformer-cov"], rotations=0
    )
    values["stage1"] = {
        "folder": str(write_tiny_stage1(tmp_path / "stage1")),
        "training": {
            **values["stage1"]["training"],
            "epochs": 1,
            "learning_rate": 1e-12,
            "min_learning_rate": 0,
        },
    }
    values["training"].update(epochs=1, learning_rate=1e-12, min_learning_rate=0)
    errors = [row["tests"]["twisted"]["mae_all_meV"] for row in run(values)["rows"]]
    assert errors == pytest.approx([errors[0]] * 4, rel=1e-6) and errors[0] > 1


@pytest.mark.parametrize("kind", ["e3+gformer", "e3"])
def test_stopped_training_goes_on(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Interrupted inside a training: the same command gives the weights of an unbroken run."""
    values = settings(make_folder, tmp_path, settings=[kind], rotations=0)
    values["training"]["epochs"] = values["stage1"]["training"]["epochs"] = 3
    if kind != "e3":
        values["stage1"] = {"folder": str(write_tiny_stage1(tmp_path / "stage1"))}
    run({**values, "output": str(tmp_path / "whole")})
    from deeph_gformer.training.callbacks import EpochLine

    old = EpochLine.on_train_epoch_end

    def stop(self: Any, trainer: Any, module: Any) -> None:
        old(self, trainer, module)
        if trainer.current_epoch == 1:  # the checkpoint of this epoch is not there yet
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(EpochLine, "on_train_epoch_end", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            run(values)
    last = [tmp_path / o / kind / "checkpoints" / "last.ckpt" for o in ("whole", "out")]
    assert not (tmp_path / "out" / kind / "finished.json").exists() and torch.load(
        last[1], weights_only=True
    )["epoch"] in (0, 1)
    table = run(values)
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in last]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    attempts = json.loads((tmp_path / "out" / kind / "attempts.json").read_text())
    assert (
        len(attempts) == 2
        and table["rows"][0]["own_training_seconds"] >= attempts[0]["seconds"] > 0
    )


def test_first_gformer_is_run_again_on_rotated_structures(
    make_folder: Folder, tiny_stage1: pathlib.Path
) -> None:
    """It is not equivariant: turning its output by Wigner-D would give the second network residuals
    that no prediction has."""
    provider = load_stage1(tiny_stage1)
    sample = load_sample(make_folder(atoms=2), provider.targets, "hamiltonians", torch.float64)
    config = from_mapping(GFormerConfig, {**SMALL, "arch": "paper"})
    models = [GFormer(config, 2, provider.targets.irreps()).double() for _ in range(2)]
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    first = GFormerStage1(
        Bundle(
            models[0],
            provider.targets,
            None,
            provider.generation,
            cascade=False,
            dtype=torch.float64,
            features=False,
        )
    )
    to_product, training = provider.assembly(), TrainingConfig(rotate=True, seed=5)
    batch = collate([sample], [FeatureCache(first, "off", features=False).get(sample)])
    task = Stage2Task(models[1], to_product, training, 1, 1.0, cascade=True, first=first).train()
    turned = rotate_batch(batch, to_product, (), (), provider.targets.irreps(), (5, 0))
    expected = to_product(first(turned.graph).direct_sum) - turned.label
    assert torch.allclose(task.error(batch), expected, atol=1e-12)
    assert not torch.allclose(to_product(turned.direct_sum) - turned.label, expected, atol=1e-3)
    assert torch.equal(task.eval().error(batch), to_product(batch.direct_sum) - batch.label)


def test_cascade_is_a_stage_1(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    """Two networks in a row pass the conformance check.

    Networks of different conventions are not added.
    """
    one, two = (load_stage1(write_tiny_stage1(tmp_path / str(n), seed=n)) for n in range(2))
    both = CascadedStage1(one, two)
    graph = HamiltonianModel(one).read(make_folder(atoms=2)).graph
    assert torch.equal(both(graph).direct_sum, one(graph).direct_sum + two(graph).direct_sum)
    check_provider(both, graph)
    assert stage1_parameters(both) == stage1_parameters(one) + stage1_parameters(two) > 1000
    with pytest.raises(ModelError, match="different floating types"):
        CascadedStage1(one, load_stage1(tmp_path / "1", dtype=torch.float32))


def test_seeds_repeat_a_setting(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values = settings(
        make_folder,
        tmp_path,
        settings=["e3", "e3+gformer"],
        seeds=[1, 2],
        model={**SMALL, "arch": "paper"},
    )
    values["stage1"] = {"folder": str(write_tiny_stage1(tmp_path / "stage1"))}
    row = run(values)["rows"][1]
    totals = [
        json.loads((tmp_path / "out" / n / "evaluation.json").read_text())["test"]["result"][
            "total"
        ]
        for n in ("e3+gformer", "e3+gformer-seed2")
    ]
    found = row["tests"]["test"]
    one = [total["refined"]["mae_all_meV"] for total in totals]
    states = [total["states_error_meV"] for total in totals]
    assert row["seeds"] == [1, 2] and one[0] != one[1] and states[0] != states[1]
    assert found["mae_all_meV"] == pytest.approx(np.mean(one))
    assert found["mae_all_spread_meV"] == pytest.approx(np.std(one, ddof=1))
    assert found["states_error_spread_meV"] == pytest.approx(np.std(states, ddof=1))
    table = (tmp_path / "out" / "table.txt").read_text()
    assert f"{np.mean(states):.2f} ± {np.std(states, ddof=1):.2f}" in table


def test_another_configuration_is_refused(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values = settings(make_folder, tmp_path, settings=["e3"])
    values["stage1"] = {"folder": str(write_tiny_stage1(tmp_path / "stage1"))}
    run(values)
    with pytest.raises(ConfigError, match=r"training\.learning_rate, seeds\[0\] differ"):
        run({**values, "training": {**values["training"], "learning_rate": 1e-2}, "seeds": [7]})
    with pytest.raises(ConfigError, match="model.width"):
        run({**values, "model": {**SMALL, "width": 32}})
    make_folder("s9", seed=9, atoms=2)
    with pytest.raises(ConfigError, match="splits are no longer"):
        run(values)


def leak(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    make_folder("copy", seed=SEEDS[0], atoms=4, root=tmp_path / "twisted")


def other_basis(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    path = make_folder("wide", seed=200, atoms=2, root=tmp_path / "twisted") / "orbital_types.dat"
    path.write_text("0 1 1\n0 1 2\n")


def no_test(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values["tests"] = {}
    values["data"].update(train_ratio=0.75, val_ratio=0.25)


def reserved(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values["tests"] = {"test": str(tmp_path / "twisted")}


def unknown(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values["stage1"]["training"]["epoch"] = 3


def no_such_setting(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values["settings"] = ["e4"]


def below_zero(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values["rotations"] = -1


def several_processes(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values["stage1"]["training"]["devices"] = 2


def forbidden(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    values.update(settings=["e3+gformer-cov"], paper_where_needed=False)


def foreign_folder(values: dict[str, Any], make_folder: Folder, tmp_path: pathlib.Path) -> None:
    (tmp_path / "out" / "e3").mkdir(parents=True)
    (tmp_path / "out" / "e3" / "notes.txt").touch()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (leak, "same structure is in two splits"),
        (other_basis, "one set needs one basis"),
        (no_test, "test split is empty"),
        (reserved, "name of the test split"),
        (unknown, "did you mean 'epochs'"),
        (no_such_setting, "choose one of e3, e3"),
        (below_zero, r"rotations is -1; allowed is \[0, inf\)"),
        (several_processes, "trains in one process"),
        (forbidden, "needs model.arch: paper"),
        (foreign_folder, "no run of an ablation"),
    ],
)
def test_bad_input(
    make_folder: Folder, tmp_path: pathlib.Path, damage: Callable[..., None], words: str
) -> None:
    values = settings(make_folder, tmp_path, settings=["e3"])
    damage(values, make_folder, tmp_path)
    with pytest.raises((ConfigError, DataError), match=words):
        run(values)
    assert not any((tmp_path / "out").rglob("checkpoints"))


def test_challenging_structure_and_block_are_those_of_stage_1() -> None:
    def result(errors: list[float], blocks: list[float]) -> dict[str, Any]:
        return {
            "structures": [{"name": str(n), "refined_mae_meV": e} for n, e in enumerate(errors)],
            "blocks": [{"refined_mae_meV": b} for b in blocks],
            "total": {"refined": {"mae_all_meV": float(np.mean(errors)), "mae_elements_meV": 0.0}},
        }

    metrics = metrics_of(
        result([1.0, 3.0, 9.0], [7.0, 2.0, 5.0]), result([2.0, 8.0, 5.0], [1.0, 6.0, float("nan")])
    )
    assert (
        metrics["mae_challenging_structure_meV"] == 3.0
        and metrics["mae_challenging_block_meV"] == 2.0
    )
    assert (
        metrics["ratio_to_e3"] == pytest.approx(13 / 15)
        and metrics["better_than_e3_structures"] == 2
        and metrics["equivariance_error_meV"] is None
    )


def test_scaled_network_has_as_many_parameters() -> None:
    config = from_mapping(
        AblationConfig,
        {
            "stage1": {
                "model": {
                    "irreps_mid": "16x0e+8x1o+4x2e",
                    "irreps_embed": "8x0e",
                    "num_blocks": 2,
                    "spherical_harmonics_lmax": 2,
                }
            }
        },
    ).stage1.model
    from deeph_gformer.algebra.orbitals import Basis, make_target_blocks

    targets = make_target_blocks(Basis((6,), ((0, 1),), False))
    goal = 150_000
    bigger, count = scaled_network(config, targets, ">=0.5", goal)
    assert (
        abs(count / goal - 1) < 0.1
        and dataclasses.replace(bigger, irreps_mid=config.irreps_mid) == config
    )


def test_gformer_alone_is_no_correction(
    tiny_stage1: pathlib.Path, make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    values = settings(make_folder, tmp_path, settings=["gformer"], tests={})
    run(values)
    bundle = tmp_path / "out" / "gformer" / "bundle"
    model = HamiltonianModel(None, load_bundle(bundle))
    assert (
        model.bundle.training["guard"] == {}
        and model.bundle.training["config"]["training"]["rotate"] is True
    )
    assert (
        main(
            [
                "refine",
                "--preprocessed",
                str(tmp_path / "data"),
                "--model",
                str(bundle),
                "--output",
                str(tmp_path / "p"),
            ]
        )
        == 0
    )
    assert not (tmp_path / "out" / "e3").exists()


def test_command_line(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    values = settings(make_folder, tmp_path)
    values["stage1"] = {}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    stage1 = write_tiny_stage1(tmp_path / "stage1")
    code = main(
        [
            "ablate",
            str(tmp_path / "a.yaml"),
            "--settings",
            "e3",
            "--stage1",
            str(stage1),
            "--output",
            str(tmp_path / "o"),
            "--test",
            f"more={tmp_path / 'twisted'}",
            "--set",
            "rotations=0",
        ]
    )
    said = capsys.readouterr().out
    assert (
        code == 0
        and "DeepHE3" in said
        and "more: 1 structures" in said
        and (tmp_path / "o" / "table.tex").is_file()
    )
    assert main(["ablate", "--list"]) == 0 and "stage1.training.epochs" in capsys.readouterr().out
    assert main(["ablate", str(tmp_path / "a.yaml"), "--set", "stage1.trainig.epochs=1"]) == 2
    assert "did you mean 'training'" in capsys.readouterr().err
    assert main(["ablate", "--settings", "e3"]) == 2
    assert main(["ablate", "--test", "more=a", "--test", "more=b"]) == 2
    assert "--test more=b: there is another test set" in capsys.readouterr().err


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_have_the_splits_of_table_1(path: pathlib.Path) -> None:
    config = load_yaml(AblationConfig, path)
    sizes = {
        "MG": (270, 90, 90, 0),
        "MM": (300, 100, 100, 0),
        "BG": (180, 60, 60, 9),
        "BB": (231, 113, 113, 4),
        "BT": (204, 38, 12, 2),
        "BS": (231, 113, 113, 2),
    }
    train, val, test, twisted = sizes[path.stem]
    total = train + val + test
    assert (round(config.data.train_ratio * total), round(config.data.val_ratio * total)) == (
        train,
        val,
    )
    assert (
        config.seeds == (42,) and bool(config.tests) == bool(twisted) and len(config.settings) == 8
    )
    one = config.stage1
    assert (
        one.model.irreps_mid,
        one.model.num_blocks,
        one.model.cutoff_radius,
        one.model.spherical_harmonics_lmax,
    ) == (
        "64x0e+32x1o+16x2e+8x3o+8x4e",
        3,
        7.2,
        4,
    )
    assert (
        one.training.learning_rate,
        one.training.epochs,
        one.training.min_learning_rate,
        one.training.plateau_patience,
    ) == (
        2e-3,
        3000,
        3e-5,
        120,
    )


def test_there_is_a_recipe_for_every_system() -> None:
    assert [p.stem for p in RECIPES] == ["BB", "BG", "BS", "BT", "MG", "MM"]


@pytest.mark.parametrize(
    "path", [p for p in RECIPES if p.stem in ("BG", "BB")], ids=lambda p: p.stem
)
def test_recipe_runs_scaled_down(
    path: pathlib.Path, make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    """The recipe with small nets and made-up structures, spin-orbit for bismuthene."""
    import yaml

    values = yaml.safe_load(path.read_text())
    values["data"].update(data(make_folder, tmp_path, spinful=path.stem == "BB"))
    values.update(
        tests={"twisted": str(tmp_path / "twisted")},
        output=str(tmp_path / "out"),
        settings=["e3", "e3+gformer"],
    )
    values["stage1"]["model"].update(NETWORK)
    values["model"].update(SMALL)
    for training in (values["training"], values["stage1"]["training"]):
        training.update(epochs=2, device="cpu", threads=1)
    table = run(values)
    assert [row["setting"] for row in table["rows"]] == ["e3", "e3+gformer"] and table[
        "spinful"
    ] == (path.stem == "BB")
    assert set(table["test_sets"]) == {"test", "twisted"}


def test_differences_name_nested_keys() -> None:
    old = {
        "data": {"cache": "ram", "edges": "auto"},
        "stage1": {"training": {"epochs": 3, "device": "cpu"}},
        "settings": ["e3"],
    }
    new = {
        "data": {"cache": "off", "edges": "union"},
        "stage1": {"training": {"epochs": 4, "device": "cuda"}},
        "settings": [],
    }
    assert differences(old, new) == ["data.edges", "stage1.training.epochs"]


@pytest.mark.parametrize("number", [0, 2])
def test_an_ablation_of_before_a_setting_goes_on(
    make_folder: Folder, tmp_path: pathlib.Path, number: int
) -> None:
    """What its file does not know had the default, and nothing else."""
    values = settings(make_folder, tmp_path, settings=["e3"])
    values["training"]["epochs"] = values["stage1"]["training"]["epochs"] = 1
    values["data"]["edge_variants"] = number
    row = run(values)["rows"][0]
    path = tmp_path / "out" / "ablation.json"
    table = json.loads(path.read_text())
    assert table["data"].pop("edge_variants") == number
    path.write_text(json.dumps(table))
    if number:
        with pytest.raises(ConfigError, match=r"\(data.edge_variants differ\)"):
            run(values)
    else:
        assert run(values)["rows"][0] == row


def test_only_corrections_are_trained_on_other_edges(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    values = settings(make_folder, tmp_path, settings=["e3", "e3+e3", "e3+gformer", "gformer"])
    values["training"]["epochs"] = values["stage1"]["training"]["epochs"] = 1
    values["data"]["edge_variants"] = 1
    run(values)
    found = {
        path.parent.name: json.loads(path.read_text())["data"]["edge_variants"]
        for path in (tmp_path / "out").glob("*/config.json")
    }
    assert found == {"e3": 0, "e3+e3": 1, "e3+gformer": 1, "gformer": 0}


def test_model_config_of_each_setting() -> None:
    config = from_mapping(AblationConfig, {})
    for kind, setting in SETTINGS.items():
        made = model_config(kind, config, 5)
        assert made.arch == ("paper" if setting.paper else "equivariant") and made.groups == (
            3 if setting.features else 5
        )
    paper = from_mapping(AblationConfig, {"model": {"arch": "paper"}, "paper_where_needed": False})
    assert model_config("gformer", paper, 3).arch == "paper"


def test_a_correction_is_no_stage_1(tmp_path: pathlib.Path) -> None:
    from ..test_pipeline import make_bundle

    stage1 = write_tiny_stage1(tmp_path / "s")
    with pytest.raises(ModelError, match="cannot be a stage 1"):
        GFormerStage1(load_bundle(make_bundle(stage1, tmp_path / "b")))
