"""A tiny GPAW run, written as folders by our interface, and the eigenvalues GPAW itself gives.

Run by test_gpaw.py, which may use another interpreter.

Usage: python gpaw_run.py OUTPUT
"""

from __future__ import annotations

import json
import pathlib
import struct
import sys

from ase import Atoms
from ase.io.ulm import Reader
from gpaw import GPAW, FermiDirac

from deeph_gformer.errors import DataError
from deeph_gformer.interop.convert import convert
from deeph_gformer.interop.gpaw import from_gpaw, write_gpaw


def main(output: pathlib.Path) -> None:
    """A zigzag chain of H2 whose second atom lies outside the cell, on a mesh too coarse for its
    orbitals."""
    atoms = Atoms(
        "H2", [(0.1, 2.6, 3.0), (2.95, 3.3, 3.2)], cell=[2.1, 6.0, 6.0], pbc=(True, False, False)
    )
    calc = GPAW(
        mode="lcao",
        basis="dzp",
        h=0.3,
        kpts={"size": (4, 1, 1), "gamma": True},
        xc="LDA",
        occupations=FermiDirac(0.1),
        txt=None,
    )
    atoms.calc = calc
    calc.initialize(atoms)
    refused = []
    try:
        from_gpaw(calc)
    except DataError as error:
        refused.append(str(error))
    atoms.get_potential_energy()
    write_gpaw(output / "chain", calc)
    calc.write(str(output / "chain.gpw"))
    convert(output / "chain.gpw", output / "from_file")
    (output / "damaged.gpw").write_bytes((output / "chain.gpw").read_bytes()[:3000])
    try:
        convert(output / "damaged.gpw", output / "nothing", code="gpaw")
    except DataError as error:
        refused.append(str(error))
    try:
        write_gpaw(output / "chain", calc)
    except DataError as error:
        refused.append(str(error))
    for name in ("density", "atomic_density_matrices"):  # one number of many is another one
        place = Reader(str(output / "chain.gpw")).density._data[name].offset
        data = bytearray((output / "chain.gpw").read_bytes())
        data[place + 8 : place + 16] = struct.pack("<d", 50.0)
        (output / "damaged.gpw").write_bytes(data)
        try:
            convert(output / "damaged.gpw", output / "nothing", code="gpaw")
        except DataError as error:
            refused.append(str(error))
    for part, name, place in (  # a little beside it, which moves no level by much
        ("density", "density", 700),
        ("density", "atomic_density_matrices", 2),
        ("atoms", "positions", 1),
    ):
        at = getattr(Reader(str(output / "chain.gpw")), part)._data[name].offset + 8 * place
        data = bytearray((output / "chain.gpw").read_bytes())
        (value,) = struct.unpack("<d", data[at : at + 8])
        data[at : at + 8] = struct.pack("<d", value + 2e-3)
        (output / "damaged.gpw").write_bytes(data)
        try:
            convert(output / "damaged.gpw", output / "nothing", code="gpaw")
        except DataError as error:
            refused.append(str(error))
    check = calc.fixed_density(
        kpts=[(0.0, 0, 0), (0.17, 0, 0), (0.5, 0, 0)], symmetry="off", txt=None
    )
    levels = [check.get_eigenvalues(k).tolist() for k in range(3)]
    record = {
        "kpoints": [0.0, 0.17, 0.5],
        "eigenvalues_eV": levels,
        "fermi_eV": calc.get_fermi_level(),
        "refused": refused,
    }
    (output / "gpaw.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
