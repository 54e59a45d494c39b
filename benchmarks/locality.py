"""What far-away atoms change, what ends at the cutoff, and what the guard sees.

The figures of docs/concepts/edges.md, guard.md and locality.md.

    python benchmarks/locality.py --data DIR

DIR holds the unpacked DFT sets. Shipped models, one minute a core.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import pathlib

import numpy as np
from ase.build import mx2

import deeph_gformer
from deeph_gformer.analysis.tables import text_table
from deeph_gformer.bands import solve_dense
from deeph_gformer.errors import DataError
from deeph_gformer.io import Structure, read_folder, read_matrix
from deeph_gformer.io.blocks import match_keys
from deeph_gformer.overlap import load as open_overlap
from deeph_gformer.pipeline import HamiltonianModel, Prediction

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
HEIGHT = 44.0
"""Of a cell with two bilayers, Å."""
REACH = 3.0
"""Bands are compared so far around the middle of the gap, eV."""
KPOINTS = ((0.0, 0.0, 0.0), (1 / 3, 1 / 3, 0.0), (0.2, 0.1, 0.0))


def load(folder: pathlib.Path) -> HamiltonianModel:
    """A shipped model, in float64."""
    return deeph_gformer.load(folder / "gformer", stage1=folder / "stage1", dtype="float64")


def joined(parts: list[Structure]) -> Structure:
    """Slabs of one lattice in a cell of :data:`HEIGHT`, evenly spaced."""
    lattice = parts[0].lattice.copy()
    lattice[2] = (0.0, 0.0, HEIGHT)
    lift = [np.array([0.0, 0.0, HEIGHT / 2 * number]) for number in range(len(parts))]
    return Structure(
        lattice,
        np.concatenate([part.positions + up for part, up in zip(parts, lift, strict=True)]),
        np.concatenate([part.numbers for part in parts]),
        sum((part.orbital_types for part in parts), ()),
        parts[0].spinful,
        {},
        " and ".join(part.name for part in parts),
    )


def change(one: Prediction, both: Prediction, first: int) -> float:
    """Largest change of an element of H of one's atoms, which are ``first``, ... of both, meV."""
    keys = one.hamiltonian.keys + np.array([0, 0, 0, first, first])
    place = match_keys(keys, both.hamiltonian.keys)
    there = both.hamiltonian.select(place)
    return float(np.abs(there.values - one.hamiltonian.values).max()) * 1e3


def neighbours(data: pathlib.Path) -> None:
    """Two bilayers in one cell against each alone in it."""
    model = load(EXAMPLES / "systems" / "models" / "bilayer_graphene")
    parts = [read_folder(data / "bilayer_graphene" / n) for n in ("0010", "0011")]
    alone, both = [model.predict(joined([part])) for part in parts], model.predict(joined(parts))
    blocks = max(change(alone[0], both, 0), change(alone[1], both, len(parts[0])))
    gaps = []
    for k in KPOINTS:
        own = np.sort(np.concatenate([solve_dense(*p.problem().at(k)).energies for p in alone]))
        bands = solve_dense(*both.problem().at(k)).energies
        filled = 2 * len(both.structure)  # of four valence electrons an atom
        near = np.abs(bands - bands[filled - 1 : filled + 1].mean()) < REACH
        gaps.append(np.abs(own - bands)[near].max() * 1e3)
    print(f"two bilayers 18.6 Å apart: elements of H change by up to {blocks:.1f} meV")
    print(
        f"bands within {REACH:g} eV at",
        ", ".join(f"{k}: {g:.1f} meV" for k, g in zip(KPOINTS, gaps, strict=True)),
    )


def far_atom() -> None:
    """One S atom of a long MoS2 ribbon of 20 cells is lifted by 0.15 Å."""
    model = load(EXAMPLES / "systems" / "models" / "mos2")
    atoms = mx2(a=3.18, vacuum=8.0).repeat((20, 1, 1))
    atoms.pbc = True
    before = model.predict(atoms)
    atoms.positions[1, 2] += 0.15
    after = model.predict(atoms)
    h, structure = before.hamiltonian, before.structure
    edges = h.keys[:, None, 3:].copy()
    cells = np.linalg.inv(structure.lattice)
    apart = structure.positions[edges[:, 0]] - structure.positions[1]
    fraction = apart @ cells
    away = np.linalg.norm((fraction - np.round(fraction)) @ structure.lattice, axis=2).min(axis=1)
    moved = after.hamiltonian.select(match_keys(h.keys, after.hamiltonian.keys))
    worst = np.maximum.reduceat(np.abs(moved.values - h.values), h.offsets[:-1]) * 1e3
    far = away > 15
    print(
        f"one atom moved by 0.15 Å: blocks {away[far].min():.0f} to {away[far].max():.0f} Å away "
        f"change by up to {worst[far].max():.2f} meV"
    )


def at_the_end(data: pathlib.Path) -> None:
    """Edges within 20 mÅ of the cutoff of the models' tables, in all DFT structures."""
    structures = near = absent = 0
    largest = {"overlap": 0.0, "hamiltonian": 0.0}
    for name in ("mos2", "bilayer_graphene", "bismuthene", "bi2te3", "bi2se3"):
        table = open_overlap(EXAMPLES / "systems" / "models" / name / "gformer")
        for folder in sorted(path for path in data.glob(f"{name}*/*") if path.is_dir()):
            structure = read_folder(folder)
            keys = table.edges(structure)
            kinds = np.sort(structure.numbers[keys[:, 3:]], axis=1).tolist()
            ends = np.array([table.cutoffs[a, b] for a, b in kinds])
            keys = keys[ends - np.linalg.norm(structure.edge_vectors(keys), axis=1) < 0.02]
            structures, near = structures + 1, near + len(keys)
            for kind in ("overlap", "hamiltonian"):
                matrix = read_matrix(folder, kind, structure)
                place = match_keys(keys, matrix.keys)
                absent += int((place < 0).sum()) if kind == "overlap" else 0
                values = np.abs(matrix.select(place[place >= 0]).values)
                largest[kind] = max(largest[kind], float(values.max(initial=0.0)))
    print(
        f"{structures} structures, {near} edges within 20 mÅ of the cutoff: |S| <= "
        f"{largest['overlap']:.1g}, |H| <= {largest['hamiltonian'] * 1e3:.1f} meV; DFT's S lacks "
        f"{absent}"
    )


def two_more(data: pathlib.Path) -> None:
    """H of one structure on the edges of DFT's S and on those of its atoms."""
    model, folder = load(EXAMPLES / "systems" / "models" / "bi2se3"), data / "bi2se3" / "0005"
    of_s, of_atoms = model.predict(folder, edges="overlaps"), model.predict(read_folder(folder))
    place = match_keys(of_s.hamiltonian.keys, of_atoms.hamiltonian.keys)
    refined, stage1 = (
        np.abs(b.select(place).values - a.values).max()
        for a, b in ((of_s.hamiltonian, of_atoms.hamiltonian), (of_s.stage1, of_atoms.stage1))
    )
    print(
        f"{folder.name}: {len(place)} edges of S, {len(of_atoms.hamiltonian)} of its atoms: H "
        f"differs by up to {refined:.3f} eV (stage 1: {stage1:.3f})"
    )


def judged(data: pathlib.Path) -> None:
    """The guard's distances for changes of a test structure of graphene."""
    model = load(EXAMPLES / "graphene")
    structure = read_folder(data / "graphene_gpaw" / "0030")
    noise = np.random.default_rng(0).normal(size=structure.positions.shape)
    rows = []
    for words, sigma, scale in (
        ("none", 0.0, 1.0),
        *((f"displaced by {s} Å", s, 1.0) for s in (0.02, 0.05, 0.1, 0.2)),
        *((f"scaled by {f}", 0.0, f) for f in (1.02, 1.05, 0.95, 0.9, 0.8)),
    ):
        lattice, positions = structure.lattice * scale, structure.positions * scale + sigma * noise
        changed = dataclasses.replace(structure, lattice=lattice, positions=positions)
        try:
            verdict = model.predict(changed, overlap=EXAMPLES / "graphene" / "gformer").judgement
        except DataError:
            rows.append([words, "refused", "refused"])
            continue
        if verdict is not None:
            rows.append([words, f"{verdict.features_z:.1f}", f"{verdict.correction_z:.1f}"])
    print(text_table(["change", "features_z", "correction_z"], rows))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="DIR")
    args = parser.parse_args()
    logging.getLogger("deeph_gformer").setLevel(logging.ERROR)
    neighbours(args.data)
    far_atom()
    at_the_end(args.data)
    two_more(args.data)
    judged(args.data)


if __name__ == "__main__":
    main()
