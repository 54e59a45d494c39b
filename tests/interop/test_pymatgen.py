"""pymatgen objects against our own numbers."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.interop import pymatgen as interop
from deeph_gformer.io import read_folder

from .conftest import golden

core = pytest.importorskip("pymatgen.core")


@pytest.fixture(scope="module")
def problem():
    return bands.load(golden("external") / "MoTe2" / "legacy")


def test_structure_round_trip(problem, tmp_path: pathlib.Path) -> None:
    structure = problem.structure
    there = interop.to_pymatgen(structure)
    assert there.formula == "Te2 Mo1"
    np.testing.assert_allclose(there.cart_coords, structure.positions, atol=1e-14)
    back = interop.from_dict(json.loads(json.dumps(interop.as_dict(structure))))
    assert (
        back.orbital_types == structure.orbital_types
        and back.info == structure.info
        and back.name == structure.name
        and back.spinful is False
    )
    np.testing.assert_allclose(back.positions, structure.positions, atol=1e-12)
    interop.write(tmp_path / "f", there)
    again = read_folder(tmp_path / "f")
    assert (
        again.numbers.tolist() == structure.numbers.tolist()
        and again.info["fermi_level"] == structure.info["fermi_level"]
    )
    with pytest.raises(DataError, match="overwrite=True"):
        interop.write(tmp_path / "f", there)
    (tmp_path / "f" / "hamiltonians.h5").write_bytes(b"of another structure")
    interop.write(tmp_path / "f", there, overwrite=True)
    assert (
        not (tmp_path / "f" / "hamiltonians.h5").exists()
        and read_folder(tmp_path / "f").numbers.tolist() == again.numbers.tolist()
    )


def test_unknown_shells_and_disorder() -> None:
    plain = core.Structure(np.eye(3) * 3, ["C", "H"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(DataError, match="site 2 .H.: its shells are unknown"):
        interop.from_pymatgen(plain, {"C": [0]})
    assert interop.from_pymatgen(plain, {"C": [0, 1], "H": [0]}).orbital_types == ((0, 1), (0,))
    with pytest.raises(DataError, match="partly occupied"):
        interop.from_pymatgen(
            core.Structure(np.eye(3) * 3, [{"C": 0.5, "Si": 0.5}], [[0, 0, 0]]), {"C": [0]}
        )


def test_other_objects_are_refused() -> None:
    plain = core.Structure(np.eye(3) * 3, ["C"], [[0, 0, 0]])
    for wrong, words in (
        (core.Molecule(["C"], [[0, 0, 0]]), "not pymatgen's Molecule"),
        (None, "not builtins's NoneType"),
    ):
        with pytest.raises(ConfigError, match=words):
            interop.from_pymatgen(wrong)
    with pytest.raises(ConfigError, match="no dictionary of a pymatgen Structure"):
        interop.from_dict({"a": 1})
    for shells in ("spd", 3, [9], [0.5]):
        with pytest.raises(DataError, match="site 1 .C.: shells .* are no list of l"):
            interop.from_pymatgen(plain, {"C": shells})


def test_bands_and_dos(problem) -> None:
    level = bands.fermi_level(problem, count_at_info=True, mesh="4x4x1")
    line = interop.symmetry_line(bands.band_structure(problem, "GM", npoints=5, fermi=level))
    from pymatgen.electronic_structure.core import Spin

    np.testing.assert_allclose(
        line.bands[Spin.up][:, 0], bands.solve_dense(*problem.at((0, 0, 0))).energies, atol=1e-9
    )
    assert line.efermi == level.energy_eV and line.branches[0]["name"] == "\\Gamma-M"
    dos = bands.density_of_states(
        problem, "2x2x1", projections="Mo-d,Te-p", fermi=level, width_eV=0.3
    )
    complete = interop.complete_dos(dos)
    from pymatgen.electronic_structure.core import OrbitalType

    np.testing.assert_allclose(complete.densities[Spin.up], dos.total)
    np.testing.assert_allclose(
        complete.get_element_spd_dos("Mo")[OrbitalType.d].densities[Spin.up], dos.projected["Mo-d"]
    )
    np.testing.assert_allclose(
        complete.get_element_spd_dos("Te")[OrbitalType.p].densities[Spin.up], dos.projected["Te-p"]
    )
    with pytest.raises(ConfigError, match="Fermi level"):
        interop.complete_dos(bands.density_of_states(problem, "1x1x1"))
