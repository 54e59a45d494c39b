"""The Python interface: several structures at once, and what objects show of themselves."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer import bands
from deeph_gformer.io import read_folder
from deeph_gformer.prediction import run

from .test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


def test_several_structures_at_once(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each gets, to rounding, what it gets alone, however many run together."""
    folders = [make_folder(f"s{n}", seed=n, atoms=2 + 2 * (n % 2)) for n in range(4)]
    bundle = make_bundle(tiny_stage1, tmp_path / "b", trained=True)
    model = deeph_gformer.load(bundle, stage1=tiny_stage1)
    alone = [model.predict(folder) for folder in folders]
    passes = []
    inner = type(model).predict_graphs

    def counted(self: object, items: list, *words: object) -> object:
        passes.append(len(items))
        return inner(self, items, *words)

    monkeypatch.setattr(type(model), "predict_graphs", counted)
    for most, expected in ((20_000, [4]), (alone[0].graph.edges + 1, [2, 2]), (1, [1] * 4)):
        monkeypatch.setattr(run, "BATCH_EDGES", most)
        passes.clear()
        made = model.predict_many(folders)
        assert passes == expected
        for one, other in zip(made, alone, strict=True):
            assert one.structure.name == other.structure.name
            assert np.array_equal(one.hamiltonian.keys, other.hamiltonian.keys)
            difference = np.abs(one.hamiltonian.values - other.hamiltonian.values).max()
            assert difference < 1e-10 * np.abs(other.hamiltonian.values).max()
            assert one.correction == pytest.approx(other.correction, rel=1e-9)
    assert model.predict_many([]) == []


def test_objects_show_themselves_on_a_line(make_folder: Folder, tiny_stage1: pathlib.Path) -> None:
    folder = make_folder()
    model = deeph_gformer.load(stage1=tiny_stage1)
    made = model.predict(folder)
    problem = bands.load(folder)
    spectrum = bands.mesh_spectrum(problem, "2x2x2")
    shown = {
        "structure": made.structure,
        "matrix": made.hamiltonian,
        "prediction": made,
        "graph": made.graph,
        "edges": made.edges,
        "problem": problem,
        "spectrum": spectrum,
        "path": bands.band_structure(problem, "GX", 5).path,
        "dos": bands.density_of_states(problem, spectrum=spectrum),
    }
    for name, thing in shown.items():
        text = repr(thing)
        assert "\n" not in text and len(text) < 250, name
    assert repr(made.graph) == f"Graph(4 atoms, {made.graph.edges} edges)"
    assert f"{read_folder(folder).formula}" in repr(made) and "mean correction 0 meV" in repr(made)
