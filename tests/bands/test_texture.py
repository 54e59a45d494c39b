"""Spin textures of the Rashba model, and projections on layers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.projection import parse_projections
from deeph_gformer.bands.texture import plot_texture, spin_texture
from deeph_gformer.errors import ConfigError
from deeph_gformer.io import BlockMatrix

from .conftest import blocks, chain, structure, write_model
from .test_topology import ONE, X, Y, kane_mele, mixed

A = 3.0


def rashba(strength: float = 0.2) -> BlochProblem:
    """Square lattice: E = -2 t (cos x + cos y) +- 2 strength |(sin x, sin y)|, spin across k."""
    h = {(0, 0, 0, 0, 0): 0.0 * ONE}
    h[1, 0, 0, 0, 0] = -1.0 * ONE + 1j * strength * Y
    h[0, 1, 0, 0, 0] = -1.0 * ONE - 1j * strength * X
    crystal = structure(np.diag([A, A, 20.0]), np.zeros((1, 3)), ((0,),))
    return BlochProblem(crystal, blocks(h), source="rashba")


@pytest.mark.parametrize("basis", ["orthogonal", "overlapping"])
def test_rashba_spins_are_tangents(basis: str) -> None:
    """H = ... + 2 s (sigma_x sin ky - sigma_y sin kx): lower band against that direction."""
    problem = rashba()
    if basis == "overlapping":
        problem = mixed(problem)[0]
    found = spin_texture(problem, [0, 1], radius=0.3, points=8, fermi_eV=-4.0)
    for i, x in enumerate(found.offsets):
        for j, y in enumerate(found.offsets):
            field = np.array([np.sin(y * A), -np.sin(x * A), 0.0])
            along = field / np.linalg.norm(field)
            assert found.spin[0, i, j] == pytest.approx(-along, abs=1e-9)
            assert found.spin[1, i, j] == pytest.approx(along, abs=1e-9)
            centre = -2 * (np.cos(x * A) + np.cos(y * A)) + 4.0
            split = 2 * 0.2 * np.linalg.norm(field)
            assert found.energies_eV[:, i, j] == pytest.approx([centre - split, centre + split])
    assert found.degenerate.tolist() == [0, 0]


def test_degenerate_bands_are_told_and_wrong_input_is_named(tmp_path) -> None:
    assert spin_texture(kane_mele(0.0, 0.0), [1], points=3).degenerate.tolist() == [1.0]
    with pytest.raises(ConfigError, match="no spin in this Hamiltonian"):
        spin_texture(chain(), [0])
    with pytest.raises(ConfigError, match="bands .3. asked; it has 1 to 2"):
        spin_texture(rashba(), [2])
    with pytest.raises(ConfigError, match="a square of half a side -1"):
        spin_texture(rashba(), [0], radius=-1)
    with pytest.raises(ConfigError, match="k-points; at most 2000000"):
        spin_texture(rashba(), [0], points=10**9)
    with pytest.raises(ConfigError, match="at most 1024 is needed"):
        spin_texture(rashba(), [0], points=3, processes=10**9)
    plot_texture(spin_texture(rashba(), [0, 1], points=21), tmp_path / "t.png")
    upright = rashba()
    h = BlockMatrix(upright.h.keys[:, [2, 0, 1, 3, 4]], upright.h.shapes, upright.h.values)
    crystal = structure(np.diag([20.0, A, A]), np.zeros((1, 3)), ((0,),))
    with pytest.raises(ConfigError, match="repeats along a2 and a3; a texture over kx and ky"):
        spin_texture(BlochProblem(crystal, h), [0], points=3)
    assert (tmp_path / "t.png").stat().st_size > 10_000


def test_axes_say_where_they_begin_and_lines_their_unit() -> None:
    (ax,) = plot_texture(spin_texture(rashba(), [0], points=3, fermi_eV=0.1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$k_x$ (1/Å)", "$k_y$ (1/Å)")
    assert ax.get_title() == "band 1, lines: $E - E_\\mathrm{F}$ (eV)"
    (ax,) = plot_texture(spin_texture(rashba(), [0], (0.5, 0, 0), points=3))
    assert ax.get_xlabel() == "$k_x$ from the centre (1/Å)"
    assert ax.get_title() == "band 1, lines: $E$ (eV)"


def test_command(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from deeph_gformer.cli import main

    monkeypatch.chdir(tmp_path)
    write_model("rashba", rashba())
    words = ["spin-texture", "rashba", "--fermi", "-3.9", "--points", "5"]
    assert main([*words, "--json", "t.json"]) == 0
    table = json.loads((tmp_path / "t.json").read_text())
    assert table["bands"] == [2] or table["bands"] == [1, 2]
    assert np.shape(table["spin_expectation"])[1:] == (5, 5, 3)
    assert (tmp_path / "rashba_spin_texture.png").is_file()
    assert "holds for the Fermi level alone" not in capsys.readouterr().err
    assert main([*words, "--s-threshold", "1e-4"]) == 0
    assert "--s-threshold 0.0001 holds for the Fermi level alone" in capsys.readouterr().err


def layers() -> BlochProblem:
    """Three layers, one of them across the cell boundary."""
    lattice = np.diag([3.0, 3.0, 20.0])
    places = np.array([[0, 0, 1.0], [0, 0, 19.5], [1, 1, 4.5], [1, 1, 8.0]])
    h = {(0, 0, 0, i, i): np.eye(4) * i for i in range(4)}
    h |= {(1, 0, 0, i, i): 0.1 * np.eye(4) for i in range(4)}
    h |= {(0, 1, 0, i, i): 0.1 * np.eye(4) for i in range(4)}
    h[0, 0, -1, 0, 1] = 0.2 * np.ones((4, 4))  # atom 2 of the cell below
    return BlochProblem(structure(lattice, places, ((0, 1),) * 4), blocks(h), source="layers")


def test_projection_on_layers() -> None:
    problem = layers()
    masks = parse_projections(problem, "layers3,layer1of3-p,p")
    atoms = {name: sorted(set(problem.atom_of_orbital[mask])) for name, mask in masks.items()}
    assert atoms["layer1of3"] == [0, 1] and atoms["layer2of3"] == [2]
    assert atoms["layer3of3"] == [3] and atoms["layer1of3-p"] == [0, 1]
    assert masks["layer1of3-p"].sum() == 6 and masks["p"].sum() == 12
    total = sum(masks[f"layer{n}of3"].astype(int) for n in (1, 2, 3))
    assert (total == 1).all()
    for text, message in (
        ("layer4of3", "layers are numbered from 1"),
        ("layers9", "9 layers are asked"),
        ("layers0", "is not understood"),
        ("layer1of3d", "is not understood"),
        ("layer1of3-d", "selects no orbital"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_projections(problem, text)
    lattice, places = np.diag([3.0, 3.0, 20.0]), np.array([[0, 0, 5.0], [0, 0, 9.0]])
    cells = [(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)]
    h = {(*cell, i, i): np.eye(4 if i else 1) for cell in cells for i in (0, 1)}
    uneven = BlochProblem(structure(lattice, places, ((0,), (0, 1))), blocks(h), source="uneven")
    with pytest.raises(ConfigError, match="layer1of2-C-p' .*; layer1of2 has C-s$"):
        parse_projections(uneven, "layer1of2-C-p")
    with pytest.raises(ConfigError, match="; it has C-p, C-s$"):
        parse_projections(uneven, "Mo")
    with pytest.raises(ConfigError, match="need a slab"):
        parse_projections(chain(), "layers1")
