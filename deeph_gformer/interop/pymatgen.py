"""pymatgen: ``Structure`` to and from ours, band structures and densities of states out.

>>> table = to_pymatgen(read_folder("folder"))                                 # doctest: +SKIP
>>> symmetry_line(bands.band_structure(problem, "GMKG", fermi=level))           # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bands import Bands, Dos
from ..errors import ConfigError, DataError, MissingDependencyError
from ..io import Structure
from ..overlap import check_shells

if TYPE_CHECKING:
    from pymatgen.core import Structure as PymatgenStructure
    from pymatgen.electronic_structure.bandstructure import BandStructureSymmLine
    from pymatgen.electronic_structure.dos import CompleteDos

__all__ = [
    "to_pymatgen",
    "from_pymatgen",
    "read",
    "write",
    "symmetry_line",
    "complete_dos",
    "as_dict",
    "from_dict",
]


def _core(purpose: str) -> ModuleType:
    try:
        import pymatgen.core
    except ImportError:
        raise MissingDependencyError("pymatgen", "pymatgen", purpose) from None
    return pymatgen.core


def to_pymatgen(structure: Structure) -> PymatgenStructure:
    """``pymatgen.core.Structure`` with the same positions (not wrapped into the cell); shells
    become the site property ``orbital_types``.

    ``properties`` holds ``name``, ``isspinful`` and ``deeph`` (info.json).

    Raises:
        MissingDependencyError: pymatgen is not installed.
    """
    core = _core("to_pymatgen")
    return core.Structure(
        structure.lattice,
        [int(z) for z in structure.numbers],
        structure.positions,
        coords_are_cartesian=True,
        to_unit_cell=False,
        site_properties={"orbital_types": [list(s) for s in structure.orbital_types]},
        properties={
            "name": structure.name,
            "isspinful": structure.spinful,
            "deeph": dict(structure.info),
        },
    )


def from_pymatgen(
    source: PymatgenStructure,
    orbital_types: Mapping[str, Sequence[int]] | None = None,
    spinful: bool | None = None,
    name: str | None = None,
) -> Structure:
    """Ours from pymatgen's, sites in their order.

    Args:
        source: ordered sites.
        orbital_types: ``{"C": [0, 0, 1, 1, 2]}``; default: the site property ``orbital_types``.
        spinful: default: what ``properties`` say, else unknown.
        name: default: what ``properties`` say, else the formula.

    Raises:
        DataError: a site is disordered, or its shells are unknown.
        ConfigError: another class of object.
    """
    if not isinstance(source, _core("from_pymatgen").Structure):
        raise ConfigError(
            "from_pymatgen: a pymatgen Structure with a lattice is needed, not "
            f"{type(source).__module__.split('.')[0]}'s {type(source).__name__}"
        )
    name = str(name or source.properties.get("name") or source.formula.replace(" ", ""))
    if not source.is_ordered:
        raise DataError(
            f"'{name}': has partly occupied sites; a Hamiltonian needs whole atoms, e.g. one of "
            "pymatgen's ordered approximants"
        )
    symbols = [site.specie.symbol for site in source]
    shells: list[tuple[int, ...]] = []
    for number, (site, symbol) in enumerate(zip(source, symbols, strict=True)):
        own = (
            orbital_types.get(symbol)
            if orbital_types is not None
            else site.properties.get("orbital_types")
        )
        if own is None:
            known = ", ".join(sorted(orbital_types)) if orbital_types else "none"
            raise DataError(
                f"'{name}', site {number + 1} ({symbol}): its shells are unknown (known: "
                f"{known}); pass orbital_types={{'{symbol}': [0, 0, 1, 1, 2]}} as the model has "
                "them"
            )
        shells.append(check_shells(own, f"'{name}', site {number + 1} ({symbol})"))
    spin = source.properties.get("isspinful") if spinful is None else spinful
    numbers = np.array([site.specie.Z for site in source], dtype=np.int64)
    return Structure(
        np.array(source.lattice.matrix, dtype=float),
        np.array(source.cart_coords, dtype=float),
        numbers,
        tuple(shells),
        None if spin is None else bool(spin),
        dict(source.properties.get("deeph") or {}),
        name,
    )


def read(folder: str | os.PathLike[str]) -> PymatgenStructure:
    """The structure of a legacy or DeepH-dock folder."""
    from ..io import read_folder

    return to_pymatgen(read_folder(folder))


def write(
    folder: str | os.PathLike[str],
    source: PymatgenStructure,
    orbital_types: Mapping[str, Sequence[int]] | None = None,
    spinful: bool | None = None,
    form: str = "legacy",
    overwrite: bool = False,
) -> None:
    """Write a structure folder; with ``overwrite`` the matrices of a structure that is there are
    removed, too.

    Raises:
        DataError: the folder holds a structure already, or see :func:`from_pymatgen`.
        ConfigError: unknown ``form``.
    """
    import pathlib

    from ..io.folder import is_free, replaced_folder
    from ..io.formats import get_format

    writer = get_format(form)

    def check() -> None:
        if not is_free(folder) and not overwrite:
            raise DataError(
                f"{folder}: holds a structure already; pass overwrite=True or choose another folder"
            )

    check()
    with replaced_folder(folder, check) as scratch:
        writer.write_structure(
            scratch, from_pymatgen(source, orbital_types, spinful, pathlib.Path(folder).name)
        )


def symmetry_line(bands: Bands) -> BandStructureSymmLine:
    """``BandStructureSymmLine`` of bands along a path; see :meth:`Bands.to_pymatgen`."""
    return bands.to_pymatgen()


def complete_dos(dos: Dos) -> CompleteDos:
    """``CompleteDos``: the total, and the projections that name one shell of one element (``Mo-d``)
    shared evenly over that element's atoms.

    Raises:
        MissingDependencyError: pymatgen is not installed.
        ConfigError: no Fermi level, or a projection that is no element with a shell.
    """
    _core("complete_dos")
    from ase.data import chemical_symbols
    from pymatgen.electronic_structure.core import Orbital, Spin
    from pymatgen.electronic_structure.dos import CompleteDos

    total = dos.to_pymatgen()
    structure = to_pymatgen(dos.structure)
    symbols = [chemical_symbols[z] for z in dos.structure.numbers]
    first = {
        "s": [Orbital.s],
        "p": [Orbital.px, Orbital.py, Orbital.pz],
        "d": [Orbital.dxy, Orbital.dyz, Orbital.dz2, Orbital.dxz, Orbital.dx2],
        "f": [
            Orbital.f_3,
            Orbital.f_2,
            Orbital.f_1,
            Orbital.f0,
            Orbital.f1,
            Orbital.f2,
            Orbital.f3,
        ],
    }
    table: dict[Any, dict[Any, dict[Any, Any]]] = {site: {} for site in structure}
    for name, values in dos.projected.items():
        element, _, shell = name.partition("-")
        if element not in symbols or shell not in first:
            raise ConfigError(
                f"projection '{name}': pymatgen's CompleteDos wants an element and a shell, e.g. "
                f"{symbols[0]}-p"
            )
        sites = [site for site, symbol in zip(structure, symbols, strict=True) if symbol == element]
        for site in sites:
            table[site].update(
                {
                    orbital: {Spin.up: values / (len(sites) * len(first[shell]))}
                    for orbital in first[shell]
                }
            )
    return CompleteDos(structure, total, table)


def as_dict(structure: Structure) -> dict[str, Any]:
    """MSON dictionary of a structure: pymatgen's, with shells, spin and info; plain JSON."""
    return json.loads(json.dumps(to_pymatgen(structure).as_dict(), default=float))


def from_dict(data: Mapping[str, Any]) -> Structure:
    """The inverse of :func:`as_dict`; also reads any ordered ``Structure`` dictionary whose sites
    have ``orbital_types``.

    Raises:
        ConfigError: it is none.
        DataError: see :func:`from_pymatgen`.
    """
    core = _core("from_dict")
    try:
        source = core.Structure.from_dict(dict(data))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"from_dict: no dictionary of a pymatgen Structure ({type(error).__name__}: {error})"
        ) from None
    return from_pymatgen(source)
