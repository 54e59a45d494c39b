"""∂H/∂τ and ∂S/∂τ against finite differences of predictions, sum rules, symmetry, and their
files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import deeph_gformer
from deeph_gformer.algebra.blocks import rotate_blocks
from deeph_gformer.algebra.rotation import edge_frames, generators, moved_frames, wigner_blocks
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError, DataError, ModelError
from deeph_gformer.inference import derivatives as module
from deeph_gformer.inference.derivatives import parse_atoms, read_derivative
from deeph_gformer.io import BlockMatrix, Structure, find_structures, read_folder, read_matrix
from deeph_gformer.overlap import load
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction.derivatives import hamiltonian_derivative
from deeph_gformer.stage1.embedded.radial import bessel_factors, bessel_slopes

from ..conftest import ROOT, golden, write_tiny_stage1
from ..overlap.test_gradient import crystal
from ..test_pipeline import make_bundle

SYSTEMS = ROOT / "examples" / "systems" / "models"
Folder = Callable[..., pathlib.Path]
Pair = tuple[HamiltonianModel, Structure, NDArray[np.int64]]


def shifted(structure: Structure, atom: int, axis: int, step: float) -> Structure:
    """One atom moved by a step, Å."""
    positions = structure.positions.copy()
    positions[atom, axis] += step
    return dataclasses.replace(structure, positions=positions)


def difference(pair: Pair, atom: int, axis: int, step: float = 2e-4) -> NDArray[np.number]:
    """∂H/∂τ from four predictions (of the engine that writes them), error of the order step⁴."""
    model, structure, keys = pair

    def h(k: int) -> NDArray[np.number]:
        moved = shifted(structure, atom, axis, k * step)
        return model.predict(moved, keys=keys).hamiltonian.values

    return (8 * (h(1) - h(-1)) - (h(2) - h(-2))) / (12 * step)


def derivative(pair: Pair, atom: int) -> tuple[BlockMatrix, BlockMatrix, BlockMatrix]:
    model, structure, keys = pair
    return hamiltonian_derivative(model, model.read(structure, keys=keys), atom)


def shipped(name: str) -> Pair:
    """A shipped stage 1 and GFormer, and a distorted cell with an edge along z."""
    folder = SYSTEMS / name
    model = deeph_gformer.load(folder / "gformer", stage1=folder / "stage1", dtype="float64")
    return model, *crystal(name)[1:]


def of_golden(name: str) -> Pair:
    base = golden(name)
    model = deeph_gformer.load(stage1=base / "model")
    folder = find_structures(base / "structures")[0]
    item = model.read(folder)
    return model, item.structure, item.edges.keys


def tiny(tmp_path: pathlib.Path, folder: pathlib.Path, arch: str) -> Pair:
    stage1 = write_tiny_stage1(tmp_path / "stage1")
    bundle = make_bundle(stage1, tmp_path / "bundle", arch, trained=True)
    model = deeph_gformer.load(bundle, stage1=stage1, dtype="float64")
    item = model.read(folder)
    return model, item.structure, item.edges.keys


@pytest.mark.parametrize("name", ["graphene_small_f64", "bismuthene_soc_f64"])
def test_stage_1_against_finite_differences(name: str) -> None:
    pair = of_golden(name)
    made = derivative(pair, 0)
    for axis in (0, 2):
        expected = difference(pair, 0, axis)
        assert np.abs(made[axis].values - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["mos2", "bilayer_graphene"])
def test_both_stages_against_finite_differences(name: str) -> None:
    pair = shipped(name)
    made = derivative(pair, 1)
    for axis in range(3):
        expected = difference(pair, 1, axis)
        assert np.abs(expected).max() > 1.0
        assert np.abs(made[axis].values - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("arch", ["paper", "equivariant"])
def test_random_weights_against_finite_differences(
    make_folder: Folder, tmp_path: pathlib.Path, arch: str
) -> None:
    pair = tiny(tmp_path, make_folder(), arch)
    made, expected = derivative(pair, 2), difference(pair, 2, 1)
    assert np.abs(made[1].values - expected).max() < 1e-6 * np.abs(expected).max()


def test_what_must_hold_of_every_derivative() -> None:
    """Hermitian; nothing changes where all atoms move; it turns with the structure."""
    model, structure, keys = pair = shipped("mos2")
    every = [derivative(pair, atom) for atom in range(3)]
    largest = max(float(np.abs(m.values).max()) for m in every[0])
    for axis in range(3):
        assert np.abs(sum(d[axis].values for d in every)).max() < 1e-9 * largest
    for e, partner in enumerate(every[1][0].partner.tolist()):
        block = every[1][0].block(e)
        assert np.abs(every[1][0].block(partner) - block.conj().T).max() < 1e-12 * largest
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
    turn = (turn * torch.linalg.det(turn).sign()).double()
    turn = torch.linalg.qr(turn)[0]  # orthogonal to the last bit
    turn = turn * torch.linalg.det(turn).sign()
    r = turn.numpy()
    turned = dataclasses.replace(
        structure, lattice=structure.lattice @ r.T, positions=structure.positions @ r.T
    )
    other = derivative((model, turned, keys), 1)
    types = model.read(structure, keys=keys).graph.node_type.numpy()
    back = [rotate_blocks(m, model.targets.basis, types, turn).values for m in every[1]]
    for axis in range(3):
        expected = sum(r[axis, b] * back[b] for b in range(3))
        assert np.abs(other[axis].values - expected).max() < 1e-9 * largest


def test_frames_move_as_rotations_do() -> None:
    """Edges along the polar axis, against it, and an atom with itself among them."""
    start = torch.tensor([[0, 0, 2.0], [0, 0, -1.5], [0.3, -1.0, 0.4], [0, 0, 0]]).double()
    frames = edge_frames(start, 4)
    speed = torch.tensor([[0.3, 0.2, 0.7], [-0.1, 0.5, 0.2], [0.3, 0.3, -0.4], [0, 0, 0]]).double()

    def moved(vectors: torch.Tensor) -> torch.Tensor:
        return torch.cat(moved_frames(frames, start[:2], vectors)[2])

    slopes = torch.func.jvp(
        lambda v: torch.cat(moved_frames(frames, start, v)[2]), (start,), (speed,)
    )[1]
    assert torch.equal(moved(start[:2]), frames[2])
    assert torch.isfinite(slopes).all() and not slopes[3].any()
    # the axis of a frame is the edge: its middle column is Y_2 of the direction
    for row in range(3):
        ends = [edge_frames(start + s * 1e-4 * speed, 2)[2][row, :, 2] for s in (1, -1)]
        assert (slopes[row, :, 2] - (ends[0] - ends[1]) / 2e-4).abs().max() < 1e-7
    angle = torch.tensor(0.6).double()
    about_y = torch.tensor([[0, 0, 1.0], [0, 0, 0], [-1, 0, 0]]).double()
    turn = torch.linalg.matrix_exp(angle * about_y)
    for l, block in enumerate(wigner_blocks(turn, 5)):
        assert (torch.linalg.matrix_exp(angle * generators(l)[1]) - block).abs().max() < 1e-12


def test_slopes_of_the_bessel_basis() -> None:
    from e3nn.o3 import Irreps

    length = torch.tensor([1.3, 4.0, 6.9, 7.6, 0.0]).double()
    arguments = Irreps("3x0e+2x1o+2x2e"), 7.5, 4
    slopes, step = bessel_slopes(length, *arguments), 1e-4
    ends = [bessel_factors(length + s * step, *arguments) for s in (1, -1)]
    assert (slopes - (ends[0] - ends[1]) / (2 * step))[:4].abs().max() < 1e-6
    assert not slopes[4, 3:].any()  # an atom with itself has no direction


def test_command_writes_all_files_of_an_atom(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With S from the table of the bundle; files have the keys and layout of DeepH's."""
    model, structure, keys = pair = shipped("mos2")
    from deeph_gformer.io.folder import write_matrix
    from deeph_gformer.io.legacy import write_structure

    folder = tmp_path / "cell"
    write_structure(folder, structure)
    provider = load(SYSTEMS / "mos2" / "gformer", extrapolate=True)
    write_matrix(folder, "overlap", provider.overlap(structure, keys), structure)
    words = ["derivative", str(folder), "--atom", "2", "--device", "cpu"]
    words += ["--stage1", str(SYSTEMS / "mos2" / "stage1")]
    words += ["--model", str(SYSTEMS / "mos2" / "gformer")]
    monkeypatch.setattr(module, "NEAR_END", 0.3)  # Å, so that there are some
    assert main(words) == 0
    made = folder / "derivative" / "atom_2"
    assert "pairs with atom 2 are within" in capsys.readouterr().out
    assert sorted(p.name for p in made.iterdir()) == sorted(
        [f"{kind}_d{a}.h5" for kind in ("hamiltonians", "overlaps") for a in "xyz"] + ["info.json"]
    )
    info = json.loads((made / "info.json").read_text())["derivative"]
    assert (info["atom"], info["hamiltonian_unit"], info["dtype"]) == (2, "eV/Å", "float64")
    again = read_folder(folder)
    found, expected = read_derivative(made, again), derivative(pair, 1)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.keys, keys) and np.abs(a.values - b.values).max() < 1e-9
    slopes = read_derivative(made, again, "overlap")
    ends = [provider.overlap(shifted(structure, 1, 0, s * 1e-4), keys) for s in (1, -1)]
    assert np.abs(slopes[0].values - (ends[0].values - ends[1].values) / 2e-4).max() < 1e-6
    assert main(words) == 2 and "is there already; add --overwrite" in capsys.readouterr().err
    left = made.with_name(".atom_2.x.tmp")  # of a process that was killed
    left.mkdir()
    assert main([*words, "--overwrite"]) == 0
    assert [p.name for p in made.parent.iterdir()] == ["atom_2"]
    # S of another basis
    wrong = read_matrix(folder, "overlap", again)
    write_matrix(folder, "overlap", dataclasses.replace(wrong, values=wrong.values * 1.1), again)
    assert main([*words, "--overwrite"]) == 2
    assert "its S differs" in capsys.readouterr().err
    assert (made / "info.json").is_file()  # what was there is whole


def test_atoms_are_named_from_1() -> None:
    assert parse_atoms(["3", "1-2,5"], 6) == [2, 0, 1, 4]
    assert parse_atoms(["all"], 3) == [0, 1, 2]
    for word in ("0", "4", "2-9", "x", "-1", "3-2"):
        with pytest.raises(ConfigError, match="--atom"):
            parse_atoms([word], 3)


def test_what_has_no_derivative_is_said(tmp_path: pathlib.Path, make_folder: Folder) -> None:
    model, structure, keys = pair = tiny(tmp_path, make_folder(), "equivariant")
    with pytest.raises(ConfigError, match="has atoms 1 to"):
        derivative(pair, len(structure))

    class Other(type(model.stage1)):  # type: ignore[misc]
        differentiable = deeph_gformer.stage1.provider.Stage1Provider.differentiable

    model.stage1.__class__ = Other
    with pytest.raises(ModelError, match="gives no derivatives; use --backend embedded"):
        derivative(pair, 0)


def test_nothing_is_left_of_a_folder_that_fails(
    tmp_path: pathlib.Path, make_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    model, *_ = tiny(tmp_path, folder, "equivariant")
    (found,) = module.derivatives(folder, model, [0])
    assert found.overlap is None and found.near_end is None
    monkeypatch.setattr(module, "write_json", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(DataError):
        module.write_derivative(tmp_path / "out", found, model)
    assert list((tmp_path / "out").iterdir()) == []
