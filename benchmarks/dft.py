"""Reading DFT output: seconds and MB/s of an OpenMX ``.scfout`` and of ABACUS' text matrices, for a
graphene sheet.

python benchmarks/dft.py [--atoms 1000] [--spin 0|3]
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deeph_gformer.interop.dft import convert_runs  # noqa: E402
from deeph_gformer.interop.dft.openmx import OpenMX  # noqa: E402
from deeph_gformer.interop.dft.run import check_run  # noqa: E402
from deeph_gformer.io import BlockMatrix, Structure  # noqa: E402
from deeph_gformer.overlap.neighbours import find_edges  # noqa: E402
from tests.interop.dft.conftest import write_scfout  # noqa: E402

TEXT = """System.Name sheet
<Definition.of.Atomic.Species
 C C6.0-s2p2d1 C_PBE19
Definition.of.Atomic.Species>
<Atoms.SpeciesAndCoordinates
{atoms}Atoms.SpeciesAndCoordinates>
"""


def sheet(atoms: int, spin: int) -> tuple[Structure, BlockMatrix, BlockMatrix]:
    """A graphene sheet with random Hermitian H and S on the pairs that OpenMX writes (2 x 6
    bohr)."""
    side = max(1, round((atoms / 2) ** 0.5))
    cell = np.array([[2.46, 0, 0], [1.23, 2.1304, 0], [0, 0, 20.0]])
    shifts = np.stack(np.meshgrid(range(side), range(side), indexing="ij"), -1).reshape(-1, 2)
    base = np.array([[0, 0, 0], [1.23, 0.7101, 0.0]])
    positions = (shifts @ cell[:2])[:, None] + base
    lattice = cell * np.array([[side], [side], [1]])
    numbers = np.full(2 * side**2, 6)
    structure = Structure(
        lattice,
        positions.reshape(-1, 3),
        numbers,
        ((0, 0, 1, 1, 2),) * len(numbers),
        spin > 0,
        {},
        "sheet",
    )
    keys = find_edges(lattice, structure.positions, numbers, {(6, 6): 12 * 0.529177249})
    rng = np.random.default_rng(0)

    def matrix(factor: int, kind: type) -> BlockMatrix:
        shapes = structure.orbital_counts[keys[:, 3:]] * factor
        values = rng.normal(size=int(shapes.prod(axis=1).sum())).astype(kind)
        return BlockMatrix(keys, shapes, values).hermitian()

    return structure, matrix(2 if spin else 1, complex if spin else float), matrix(1, float)


def main() -> None:
    """Write the file, read it three times, convert it once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=1000)
    parser.add_argument("--spin", type=int, choices=(0, 3), default=0)
    args = parser.parse_args()
    structure, h, s = sheet(args.atoms, args.spin)
    atoms = "".join(f" {n + 1} C 0 0 0 2 2\n" for n in range(len(structure)))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "sheet.scfout"
        write_scfout(path, structure, h, s, spin=args.spin, text=TEXT.format(atoms=atoms))
        size = path.stat().st_size / 1e6
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            run = OpenMX().read(path)
            seconds.append(time.perf_counter() - start)
        if run.hamiltonian is None or abs(run.hamiltonian.values - h.values).max() > 1e-12:
            raise SystemExit("what was read is not what was written")
        best = min(seconds)
        start = time.perf_counter()
        check_run(run, path)
        checked = time.perf_counter() - start
        start = time.perf_counter()
        convert_runs(path, pathlib.Path(folder) / "out", "openmx")
        whole = time.perf_counter() - start
        used = (run.hamiltonian.values.nbytes + s.values.nbytes) / 1e6
        print(
            f"{len(structure)} atoms, {len(h)} pairs, spin {args.spin}: {size:.0f} MB file, "
            f"{used:.0f} MB of "
            f"H and S; read {best:.2f} s ({size / best:.0f} MB/s of the file, "
            f"{used / best:.0f} MB/s of "
            f"H and S), checks {checked:.2f} s, convert {whole:.2f} s"
        )


if __name__ == "__main__":
    main()
