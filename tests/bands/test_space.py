"""States in space: norms, the files read back, and images with known answers."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer.analysis.redescribe import relattice
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.space import (
    Grid,
    density_on_grid,
    plot_stm,
    states_at,
    states_in_window,
    stm_image,
    write_volume,
)
from deeph_gformer.bands.space.density import density_at
from deeph_gformer.errors import ConfigError
from deeph_gformer.io import BlockMatrix, Structure
from deeph_gformer.overlap.basis import AtomicBasis, two_centre
from deeph_gformer.overlap.orbitals import OrbitalValues

from .conftest import structure, write_model

ROOT = pathlib.Path(__file__).resolve().parents[2].parent
BOHR = 0.529177210903


def smooth_basis(shells: tuple[int, ...] = (0, 1, 2), cutoff: float = 8.0) -> AtomicBasis:
    """r^l (1 - (r/rc)²)^6 of carbon: exactly zero beyond the cutoff, no cusp."""
    radius = np.linspace(0, cutoff, 801)
    tail = (1 - (radius / cutoff) ** 2) ** 6
    return AtomicBasis(
        6, shells, radius, np.array([radius**l * tail for l in shells]), cutoff
    ).normalised()


def layer(spin: int = 1, shift: float = 4.0) -> tuple[BlochProblem, OrbitalValues, Structure]:
    """Two atoms in a tilted surface cell, S from the basis, any Hermitian H."""
    basis = smooth_basis()
    lattice = np.array([[3.1, 0, 0], [1.2, 3.3, 0], [0, 0, 14.0]])
    crystal = structure(
        lattice, np.array([[0.2, 0.1, shift], [1.9, 1.4, shift + 1.1]]), ((0, 1, 2),) * 2
    )
    from deeph_gformer.overlap.provider import TableOverlap

    s = TableOverlap(two_centre([basis])).overlap(crystal)
    rng = np.random.default_rng(3)
    blocks: dict = {}
    for key, block in s:
        turned = (-key[0], -key[1], -key[2], key[4], key[3])
        shape = (spin * block.shape[0], spin * block.shape[1])
        value = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if spin == 2 else 0)
        scale = 1.0 if key[3] == key[4] and not any(key[:3]) else 0.05
        value = -3 * np.kron(np.eye(spin), block) + scale * value
        blocks[tuple(key)] = value
        if turned == tuple(key):
            blocks[tuple(key)] = (value + value.conj().T) / 2
        elif turned in blocks:
            blocks[tuple(key)] = blocks[turned].conj().T
    h = BlockMatrix.from_blocks(np.array(list(blocks)), list(blocks.values()))
    return BlochProblem(crystal, h, s, source="layer"), OrbitalValues([basis]), crystal


@pytest.mark.parametrize("spin", [1, 2])
def test_norm_of_states_is_one(spin: int) -> None:
    """The grid's integral against c† S c = 1, S from Fourier transforms: k-phases, orbital
    order."""
    problem, orbitals, crystal = layer(spin)
    grid = Grid.of(crystal, 0.35)
    for k in ((0.0, 0.0, 0.0), (0.13, -0.21, 0.0)):
        states, _ = states_at(problem, k, [0, 5])
        values = density_on_grid(problem, orbitals, [states], grid)
        assert values.shape == grid.counts and values.min() >= 0
        assert values.sum() * grid.volume == pytest.approx(2.0, abs=2e-4)


def test_density_is_that_of_the_formula() -> None:
    """Against a plain sum over cells, orbital by orbital, at scattered points."""
    problem, orbitals, crystal = layer()
    k, points = np.array([0.3, 0.2, 0.0]), np.array([[0.5, 0.2, 4.4], [1.0, 0.9, 5.6]])
    states, _ = states_at(problem, k, [3])
    psi = np.zeros(2, dtype=complex)
    for x in range(-3, 4):
        for y in range(-3, 4):
            for atom in range(2):
                centre = crystal.positions[atom] + np.array([x, y, 0]) @ crystal.lattice
                own = states.vectors[9 * atom : 9 * atom + 9, 0]
                value = orbitals.values(6, points - centre) @ own
                psi += np.exp(2j * np.pi * (x * k[0] + y * k[1])) * value
    found = density_at(problem, orbitals, [states], points)
    assert found == pytest.approx(np.abs(psi) ** 2, rel=1e-10)


def test_window_counts_states_and_crosses_the_boundary() -> None:
    """Integral = states per cell, both spins.

    The same slab across the cell boundary is the same.
    """
    problem, orbitals, crystal = layer()
    energies = [
        scipy.linalg.eigh(*problem.at((x / 3, y / 3, 0)), eigvals_only=True)
        for x in range(3)
        for y in range(3)
    ]
    low, high = np.quantile(energies, [0.1, 0.4]) + 1e-4
    chosen = states_in_window(problem, (low, high), "3x3x1")
    expected = 2 * sum(((e > low) & (e <= high)).sum() for e in energies) / 9
    assert sum(one.weights.sum() for one in chosen) == pytest.approx(expected)
    grid = Grid.of(crystal, 0.45)
    values = density_on_grid(problem, orbitals, chosen, grid)
    assert values.sum() * grid.volume == pytest.approx(expected, rel=2e-3)
    with pytest.raises(ConfigError, match="no state lies between .* the nearest is"):
        states_in_window(problem, (-900.0, -899.0), "2x2x1")


def test_files_read_back(tmp_path: pathlib.Path) -> None:
    from ase.io.cube import read_cube
    from ase.io.xsf import read_xsf

    crystal = layer()[2]
    values = np.random.default_rng(0).random((5, 6, 7))
    write_volume(tmp_path / "a.cube", crystal, values, "a comment")
    with open(tmp_path / "a.cube") as handle:
        found = read_cube(handle)
    assert found["data"] / BOHR**3 == pytest.approx(values, rel=1e-4)
    assert found["atoms"].cell[:] == pytest.approx(crystal.lattice, abs=1e-4)
    assert found["atoms"].positions == pytest.approx(crystal.positions, abs=1e-4)
    write_volume(tmp_path / "a.xsf", crystal, values, "a comment")
    with open(tmp_path / "a.xsf") as handle:
        data, origin, span, atoms = read_xsf(handle, read_data=True)
    assert data.shape == (6, 7, 8) and data[:5, :6, :7] == pytest.approx(values, rel=1e-8)
    assert data[5, 2, 3] == pytest.approx(values[0, 2, 3]) and data[1, 6, 7] == pytest.approx(
        values[1, 0, 0]
    )
    assert span == pytest.approx(crystal.lattice) and not np.asarray(origin).any()
    assert atoms.positions == pytest.approx(crystal.positions, abs=1e-8)
    with pytest.raises(ConfigError, match="ends in .cube or .xsf"):
        write_volume(tmp_path / "a.vtk", crystal, values, "")


def test_stm_of_one_s_orbital(tmp_path: pathlib.Path) -> None:
    """One atom a cell: the image is |phi|² summed over cells; topography inverts it."""
    basis = smooth_basis((0,), 9.0)
    crystal = structure(np.diag([9.6, 9.6, 20.0]), np.array([[4.8, 4.8, 18.5]]), ((0,),))
    keys = np.array(
        [(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (-1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, -1, 0, 0, 0)]
    )
    h = BlockMatrix.from_blocks(keys, [np.full((1, 1), v) for v in (0.0, 1e-6, 1e-6, 1e-6, 1e-6)])
    problem, orbitals = BlochProblem(crystal, h, source="ad-atom"), OrbitalValues([basis])
    chosen = states_in_window(problem, (-0.5, 0.5), "1x1x1")
    image = stm_image(problem, orbitals, chosen, height_A=2.0, current=1e-3, spacing=0.4)
    assert image.top_A == pytest.approx(18.5)
    above = orbitals.values(6, np.array([[0.0, 0.0, 2.0], [0.8, 0, 2.0]]))[:, 0] ** 2 * 2
    assert image.ldos[12, 12] == pytest.approx(above[0]) and image.ldos[14, 12] == pytest.approx(
        above[1]
    )
    height = image.topography_A[12, 12]
    there = orbitals.values(6, np.array([[0.0, 0.0, height]]))[0, 0] ** 2 * 2
    assert there == pytest.approx(1e-3, rel=0.02) and np.isnan(image.topography_A[0, 0])
    plot_stm(image, tmp_path / "stm.png")
    assert (tmp_path / "stm.png").stat().st_size > 10_000
    assert image.to_json()["topography_A"][0][0] is None
    with pytest.raises(ConfigError, match="the orbitals of this basis end 4.76 Å"):
        stm_image(problem, orbitals, chosen, height_A=5.0)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_an_image_is_seen_from_the_vacuum(order: tuple[int, ...]) -> None:
    """The surface cell turns as its vectors do about the normal; else the image is mirrored."""
    problem, orbitals, crystal = layer()
    change = np.eye(3, dtype=np.int64)[list(order)]
    other = relattice(2, change)
    there = other.structure(crystal)
    problem = BlochProblem(there, other.blocks(problem.h), other.blocks(problem.s))
    chosen = states_in_window(problem, (-20, 20), "1x1x1")
    vectors = stm_image(problem, orbitals, chosen, spacing=1.6).vectors
    axis = order.index(2)
    first, second = np.delete(there.lattice, axis, axis=0)
    turn = np.cross(first, second)[2] / np.linalg.norm(np.cross(first, second))
    assert np.linalg.det(vectors) == pytest.approx(turn * np.linalg.norm(np.cross(first, second)))


def test_what_cannot_be_drawn() -> None:
    problem, orbitals, crystal = layer()
    with pytest.raises(ConfigError, match="bands .19. asked; it has 1 to 18"):
        states_at(problem, (0, 0, 0), [18])
    with pytest.raises(ConfigError, match="grid spacing nan"):
        Grid.of(crystal, float("nan"))
    with pytest.raises(ConfigError, match="more than 50000000 points"):
        Grid.of(crystal, 1e-3)


def test_degenerate_states_are_named() -> None:
    """Kramers pairs: one of them alone is a mixture of LAPACK's choice."""
    from .test_topology import kane_mele

    found, missed = states_at(kane_mele(0.0, 0.0), (0, 0, 0), [0])
    assert missed == [1] and found.weights.tolist() == [1.0]


MOS2 = ROOT / "shared" / "dft" / "abacus" / "mos2_1x1"


@pytest.mark.skipif(not MOS2.is_dir(), reason="needs ../shared/dft")
def test_command_on_a_dft_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ABACUS' own H, S and basis files: the norm tells that orbitals, order and signs are right."""
    from deeph_gformer.cli import main

    basis = [str(ROOT / "shared" / "data" / "basis" / f"{s}.orb") for s in ("Mo", "S")]
    words = ["ldos", str(MOS2), "--mesh", "2x2x1", "--spacing", "0.4", "-o", str(tmp_path / "L")]
    table = tmp_path / "l.json"
    asked = ["--window", "-3", "0", "--stm", "--state", "0.1", "0.2", "0", "10"]
    assert main([*words, *asked, "--json", str(table), "--basis", *basis]) == 0
    found = json.loads(table.read_text())
    for volume in found["volumes"]:
        assert volume["integral"] == pytest.approx(volume["states"], rel=5e-3)
        assert pathlib.Path(volume["file"]).is_file()
    assert (tmp_path / "L" / "stm.png").is_file() and len(found["stm"]["ldos_per_A3"]) == 8
    assert main([*words, "--window", "-3", "0"]) == 2
    assert "give the basis files" in capsys.readouterr().err
    assert main([*words, "--basis", *basis]) == 2
    # refused before anything is written
    nowhere = tmp_path / "nothing"
    words = [*words[:-1], str(nowhere), "--window", "-3", "0", "--basis", *basis]
    assert main([*words, "--stm", "--height", "50"]) == 2
    assert "height 50 Å" in capsys.readouterr().err
    assert main([*words, "--state", "0", "0", "0", "999"]) == 2
    assert "999" in capsys.readouterr().err and not nowhere.exists()


@pytest.mark.skipif(not MOS2.is_dir(), reason="needs ../shared/dft")
@pytest.mark.parametrize("verb", ["ldos", "optics", "topology"])
def test_basis_files_of_another_run(
    tmp_path: pathlib.Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same shells with other radial functions: S tells."""
    from deeph_gformer.cli import main

    files = []
    for name in ("Mo", "S"):
        text = (ROOT / "shared" / "data" / "basis" / f"{name}.orb").read_text()
        scaled, changes = re.subn(
            r"(Radius Cutoff\(a\.u\.\)|dr) +([0-9.]+)",
            lambda found: f"{found[1]}  {0.97 * float(found[2]):.6g}",
            text,
        )
        assert changes == 2
        files.append(tmp_path / f"{name}.orb")
        files[-1].write_text(scaled)
    out = tmp_path / ("out" if verb == "ldos" else "out.png")
    words = [verb, str(MOS2), "--mesh", "2x2x1", "-o", str(out)]
    words += ["--window", "-3", "0"] if verb == "ldos" else []
    assert main([*words, "--basis", *map(str, files)]) == 2
    assert "of another basis" in capsys.readouterr().err
    assert not out.exists()


def test_command_refuses_contradictions(tmp_path: pathlib.Path, monkeypatch, capsys) -> None:
    from deeph_gformer.cli import main

    monkeypatch.chdir(tmp_path)
    write_model("layer", layer()[0])
    assert main(["ldos", "layer", "--stm", "--state", "0", "0", "0", "1"]) == 2
    assert main(["ldos", "layer", "--state", "0", "0", "0", "1.5"]) == 2
    assert "an integer from 1 on" in capsys.readouterr().err
