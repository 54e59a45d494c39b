"""On-site levels of predictions: what is unusual is told, and what is wrong before networks run."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.errors import DataError
from deeph_gformer.inference.derivatives import derivatives
from deeph_gformer.interop.deephe3 import _labelled
from deeph_gformer.io import read_folder, read_matrix
from deeph_gformer.io.blocks import onsite_keys
from deeph_gformer.io.folder import write_matrix
from deeph_gformer.onsite import LevelModel, onsite_features
from deeph_gformer.onsite.reach import Reach
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction import passes
from deeph_gformer.prediction.levels import APART, LIMIT

from ..conftest import write_tiny_stage1
from ..onsite.test_levels import some_levels
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]
Open = Callable[[LevelModel], HamiltonianModel]


@pytest.fixture
def with_levels(tmp_path: pathlib.Path) -> Open:
    """Gives a model of networks with random weights these levels."""
    stage1 = write_tiny_stage1(tmp_path / "stage1")
    bundle = make_bundle(stage1, tmp_path / "bundle", trained=True)
    plain = deeph_gformer.load(bundle, stage1=stage1)
    assert plain.bundle is not None

    def make(levels: LevelModel) -> HamiltonianModel:
        training = plain.bundle.training | {"levels": levels.to_json()}
        given = dataclasses.replace(plain.bundle, training=training)
        return HamiltonianModel(plain.stage1, given, plain.device)

    return make


def test_unusual_levels_are_told(
    with_levels: Open,
    tmp_path: pathlib.Path,
    make_folder: Folder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the features of an atom, the gap between parts, and the shifts; each where it is largest,
    and nothing where all are as in the fit."""
    folder, levels = make_folder(seed=1), some_levels(scale=0.01)
    structure = read_folder(folder)
    keys = read_matrix(folder, "overlap").keys
    x = levels.moved(structure, onsite_features(structure, keys, levels.elements, levels.radial))
    size = np.linalg.norm(x, axis=1)
    plain = with_levels(levels)
    assert plain.predict(folder).judgement is None  # as bundles from before
    assert "on-site levels" in repr(plain) and "on-site" not in repr(plain.without_levels())

    def said(reach: Reach) -> tuple[float, str]:
        caplog.clear()
        model = with_levels(dataclasses.replace(levels, reach=reach))
        verdict = model.predict(folder).judgement
        assert verdict is not None and verdict.correction_z is None and not verdict.out_of_range
        assert verdict.levels_distance is not None
        if verdict.warning is None:
            assert not caplog.text
        else:
            assert f"{structure.name}: {verdict.warning}" in caplog.text
        return verdict.levels_distance, verdict.warning or ""

    unit = np.eye(24)
    distance, text = said(Reach(unit / size.max()))
    assert distance == pytest.approx(1.0, rel=1e-3) and not text
    distance, text = said(Reach(3 * unit / size.max()))
    worst = int(size.argmax())
    name = {16: "S", 42: "Mo"}[int(structure.numbers[worst])]
    assert distance == pytest.approx(3.0, rel=1e-3)
    assert text.startswith(f"on-site levels may be off: atom {worst + 1} ({name}) is 3.0 times")
    near = Reach(0.1 * unit / size.max())
    bonds = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    assert not said(near._replace(apart=float(bonds.max())))[1]
    found = said(near._replace(apart=0.5))[1]
    assert "its parts are" in found and "and 0.50 at most in training" in found
    # rms of the shifts, from H itself
    made, old = plain.predict(folder), plain.without_levels().predict(folder)
    itself = np.flatnonzero(onsite_keys(made.hamiltonian.keys))
    shifts = []
    for e in itself.tolist():
        change = np.diag(made.hamiltonian.block(e) - old.hamiltonian.block(e)).real
        shells, start = structure.orbital_types[int(made.hamiltonian.keys[e, 3])], 0
        for n in range(3):
            shifts.append(change[start] if n < len(shells) else 0.0)
            start += 2 * shells[n] + 1 if n < len(shells) else 0
    rms = float(np.sqrt(np.mean(np.square(shifts))))
    assert not said(near._replace(shift=rms / (0.99 * LIMIT)))[1]
    distance, text = said(near._replace(shift=rms / 5))
    assert distance == pytest.approx(5.0, rel=1e-3)
    assert f"they shift by {rms * 1e3:.0f} meV (rms; {rms * 200:.0f} at most" in text
    # the same in the record of refine
    result = deeph_gformer.refine(folder, with_levels(dataclasses.replace(levels, reach=near)))
    assert result["structures"][0]["guard_warning"] is None
    model = with_levels(dataclasses.replace(levels, reach=near._replace(shift=rms / 5)))
    record = deeph_gformer.refine(folder, model, tmp_path / "out")["structures"][0]
    assert record["guard_warning"] == text and record["levels_distance"] == distance


def test_parts_beyond_the_cutoff_are_told(with_levels: Open, make_folder: Folder) -> None:
    """Blocks of S connect what bonds within the levels' cutoff do not."""
    folder = make_folder(seed=1)
    levels = some_levels(scale=0.01)
    short = dataclasses.replace(
        levels,
        radial=levels.radial._replace(cutoff=1.0),
        ranks=(0,),
        reach=Reach(1e-3 * np.eye(24), apart=0.9),
    )
    verdict = with_levels(short).predict(folder).judgement
    assert verdict is not None and verdict.warning is not None
    assert "has parts that no bond within 1 Å connects" in verdict.warning
    unknown = dataclasses.replace(short, reach=Reach(1e-3 * np.eye(24)))  # training had them, too
    verdict = with_levels(unknown).predict(folder).judgement
    assert verdict is not None and verdict.warning is None and math.isfinite(APART)


def test_errors_come_before_the_networks(
    with_levels: Open,
    tmp_path: pathlib.Path,
    make_folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By every way, and without leaving files."""
    levels = some_levels(scale=0.01)
    model = with_levels(levels)
    assert model.bundle is not None

    def no_networks(*_: object) -> None:
        raise AssertionError("networks ran")

    monkeypatch.setattr(passes, "open_stream", no_networks)
    good = make_folder("good")
    with pytest.raises(AssertionError, match="networks ran"):
        model.predict(good)
    bare, lonely, broken = (make_folder(name) for name in ("bare", "lonely", "broken"))
    (bare / "overlaps.h5").unlink()
    (broken / "overlaps.h5").write_bytes(b"no such file")
    structure, s = read_folder(lonely), read_matrix(lonely, "overlap")
    kept = np.flatnonzero(~(onsite_keys(s.keys) & (s.keys[:, 3] == 2)))
    write_matrix(lonely, "overlap", s.select(kept), structure)
    lacks = r"lonely, S: atom 3 has no on-site block \[0, 0, 0, 3, 3\]"
    for folder, text in (
        (bare, "bare: this model shifts on-site levels, which needs S"),
        (lonely, lacks),
        (broken, "overlaps.h5"),
    ):
        with pytest.raises(DataError, match=text):
            model.predict(folder, edges="hamiltonians")
        with pytest.raises(DataError, match=text):
            deeph_gformer.refine(folder, model, tmp_path / "out", edges="hamiltonians")
        with pytest.raises(DataError, match=text):
            _labelled(model, folder, True, 1)
        assert not list((tmp_path / "out").rglob("*"))
    item = model.read(good)._replace(s=s.select(kept))
    with pytest.raises(DataError, match=r"S: atom 3 has no on-site block"):
        model.predict_items([item])
    few = dataclasses.replace(levels, elements=(16, 15)).to_json()
    monkeypatch.setitem(model.bundle.training, "levels", few)
    monkeypatch.delitem(model.bundle.__dict__, "levels")
    for run in (
        lambda: model.predict(good),
        lambda: model.predict_items([model.read(good)]),
        lambda: list(model.predict_graphs([model.read(good)])),
        lambda: deeph_gformer.refine(good, model, tmp_path / "out"),
        lambda: _labelled(model, good, True, 1),
        lambda: list(derivatives(good, model, [0])),
    ):
        with pytest.raises(DataError, match="has Mo, which no structure has"):
            run()
    assert not list((tmp_path / "out").rglob("*"))
