"""Is H smooth where an atom goes through its site in an ideal quintuple layer? Of
docs/measured/invariance.md.

    python benchmarks/ideal_layers.py

Largest second differences of H, both stages and stage 1, over steps of 0.001 Å. Irreps vanish by
symmetry there, and stage 1 divides them by their norm.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib

import numpy as np

import deeph_gformer
from deeph_gformer.io.blocks import sort_keys
from deeph_gformer.io.structure import Structure

MODELS = pathlib.Path(__file__).resolve().parents[1] / "examples" / "systems" / "models"
#: Lattice constant in Å; of the middle atom and those above it: (Z, site, z in Å).
LAYERS = {
    "bi2te3": (4.4, [(52, 0, 0.0), (83, 1, 2.0), (52, 2, 3.7)]),
    "bi2se3": (4.15, [(34, 0, 0.0), (83, 1, 1.9), (34, 2, 3.5)]),
}
RANGE = 4.6
SITES = np.array([(0, 0, 0), (1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0)])
STEP = 1e-3 * np.array([0.6, 0.64, 0.48])


def layer(name: str, model: deeph_gformer.HamiltonianModel) -> tuple[Structure, np.ndarray]:
    """The layer, its inversion centre in the middle atom, and its pairs within RANGE."""
    a, upper = LAYERS[name]
    atoms = [*upper, *((z, -site % 3, -height) for z, site, height in upper[1:])]
    lattice = np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 30.0]])
    heights = np.array([(0, 0, height + 10) for _, _, height in atoms])
    positions = SITES[[site for _, site, _ in atoms]] @ lattice + heights
    numbers = np.array([z for z, _, _ in atoms])
    basis = model.targets.basis
    shells = tuple(basis.orbital_types[basis.elements.index(z)] for z in numbers.tolist())
    found = Structure(lattice, positions, numbers, shells, basis.spinful, name=name)
    pairs = itertools.product(range(-3, 4), range(-3, 4), [0], range(len(atoms)), range(len(atoms)))
    keys = np.array(list(pairs))
    keys = keys[np.linalg.norm(found.edge_vectors(keys), axis=1) < RANGE]
    return found, keys[sort_keys(keys)]


def second(values: list[np.ndarray]) -> float:
    """Largest second difference, meV."""
    v = np.stack(values)
    return float(np.abs(v[2:] - 2 * v[1:-1] + v[:-2]).max()) * 1e3


def main() -> None:
    """Print a line for each system."""
    for name in LAYERS:
        base = MODELS / name
        model = deeph_gformer.load(base / "gformer", stage1=base / "stage1", dtype="float64")
        ideal, keys = layer(name, model)
        both, first = [], []
        for n in range(4):
            positions = ideal.positions.copy()
            positions[-1] += (n - 1.5) * STEP
            made = model.predict(dataclasses.replace(ideal, positions=positions), keys=keys)
            both.append(made.hamiltonian.values)
            first.append(made.stage1.values)
        print(f"{name}: both stages {second(both):.2f} meV, stage 1 {second(first):.2f} meV")


if __name__ == "__main__":
    main()
