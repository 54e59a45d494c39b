"""Edges in chunks: the numbers of the whole graph, whatever the chunk, the arch, the stage 1 and
the spin."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.data.symmetry import hermitian_product
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.gformer.spans import atom_spans
from deeph_gformer.pipeline import HamiltonianModel, Prediction
from deeph_gformer.prediction.blocks import hermitian_in_place
from deeph_gformer.runtime.plan import ExecutionPlan
from deeph_gformer.runtime.storage import Storage

from ..conftest import write_tiny_stage1
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


def chunked(
    model: HamiltonianModel, folder: pathlib.Path, execution: ExecutionPlan, **options: bool | int
) -> Prediction:
    made = next(model.predict_graphs([model.read(folder)], execution, **options))
    assert made is not None
    return made


def same(a: Prediction, b: Prediction) -> None:
    for x, y in ((a.hamiltonian, b.hamiltonian), (a.stage1, b.stage1)):
        assert np.array_equal(x.keys, y.keys)
        assert np.abs(x.values - y.values).max() < 1e-12 * np.abs(y.values).max()
    assert a.correction == pytest.approx(b.correction, rel=1e-10)


@pytest.mark.parametrize(
    ("arch", "spinful"), [("equivariant", False), ("equivariant", True), ("paper", True)]
)
def test_chunks_change_nothing(
    make_folder: Folder, tmp_path: pathlib.Path, arch: str, spinful: bool
) -> None:
    """An atom of the made-up crystal has some 10 edges: a few atoms in a chunk, or all."""
    stage1 = write_tiny_stage1(
        tmp_path / "s", spinful=spinful, blocks=3, irreps="4x0e+2x0o+3x1o+2x1e+2x2e+1x3o"
    )
    model = deeph_gformer.load(
        make_bundle(stage1, tmp_path / "b", arch, trained=True), stage1=stage1
    )
    folder = make_folder(atoms=5, spinful=spinful)
    whole = model.predict(folder)
    assert (
        whole.correction > 1e-3
        and np.bincount(whole.edges.keys[:, 3]).max() < 40 < len(whole.edges.keys) / 2
    )
    for chunk in (40, 10**6):
        same(chunked(model, folder, ExecutionPlan(chunk, keep_pairs=chunk > 40)), whole)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"attention": "mean"}, {"beta": 0.0}, {"lam": 0.0, "alpha": 0.0}]
)
def test_every_setting(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    residual: bool,
    options: dict,
) -> None:
    arch = "paper" if "attention" in options else "equivariant"
    bundle = make_bundle(
        tiny_stage1, tmp_path / "b", arch, trained=True, residual=residual, **options
    )
    model = deeph_gformer.load(bundle, stage1=tiny_stage1)
    folder = make_folder()
    same(chunked(model, folder, ExecutionPlan(90)), model.predict(folder))


def test_frames_raw_output_and_stage_1_alone(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    folder = make_folder()
    model = deeph_gformer.load(
        make_bundle(tiny_stage1, tmp_path / "b", "paper", trained=True), stage1=tiny_stage1
    )
    same(chunked(model, folder, ExecutionPlan(90), frames=3), model.predict(folder, frames=3))
    same(
        chunked(model, folder, ExecutionPlan(90), hermitian=False),
        model.predict(folder, hermitian=False),
    )
    alone = deeph_gformer.load(stage1=tiny_stage1)
    same(chunked(alone, folder, ExecutionPlan(90)), alone.predict(folder))


def test_a_stage_1_without_a_stream(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    """Any other provider runs as a whole, in global axes."""
    model = deeph_gformer.load(
        make_bundle(tiny_stage1, tmp_path / "b", trained=True), stage1=tiny_stage1
    )
    folder = make_folder()
    whole = model.predict(folder)
    model.stage1.stream = lambda graph, work: None  # type: ignore[method-assign, union-attr]
    same(chunked(model, folder, ExecutionPlan(90)), whole)


def test_spilled_features_are_the_same(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    model = deeph_gformer.load(
        make_bundle(tiny_stage1, tmp_path / "b", trained=True), stage1=tiny_stage1
    )
    folder = make_folder()
    storage = Storage(tmp_path / "spill", limit=50_000)
    same(chunked(model, folder, ExecutionPlan(90, storage=storage)), model.predict(folder))
    assert storage.spilled > 50_000 and not list((tmp_path / "spill").iterdir())


def test_full_disk_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match="--spill.*No space left.*nothing was left behind"):
        Storage(tmp_path, limit=0).empty(10, 10, torch.zeros(0))
    assert not list(tmp_path.iterdir())


def test_atom_spans() -> None:
    """Whole atoms, every one once, none above the chunk; an atom that does not fit is named."""
    degree = torch.tensor([3, 4, 2, 7, 1])
    spans = atom_spans(degree, 10, 7)
    assert [tuple(s) for s in spans] == [
        (0, 7, 10, 12),
        (7, 9, 12, 13),
        (9, 16, 13, 14),
        (16, 17, 14, 15),
    ]
    with pytest.raises(ConfigError, match="one atom has 7"):
        atom_spans(degree, 0, 6)


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_hermitian_in_place(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    partner = torch.tensor([1, 0, 2, 4, 3, 5, 6])
    index = torch.tensor([0, 2, 1, -1])
    vector = torch.randn(7, 4, dtype=kind)
    wanted = hermitian_product(vector, partner, index)
    hermitian_in_place(vector, partner, index, chunk=2)
    assert torch.equal(vector, wanted)
