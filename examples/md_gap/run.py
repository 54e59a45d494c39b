"""Molecular dynamics and the electronic gap.

100 snapshots of graphene at 300 K, a Hamiltonian for each, the gap over time.

    python examples/md_gap/run.py [--output DIR] [--frames N] [--trajectory FILE]

Classical MD (Tersoff carbon, ASE, Langevin thermostat) moves the 18 atoms of a 3x3 cell; the
shipped graphene model predicts H of each snapshot; S and the edges come from a two-centre table
fitted on the spot to the shipped structures. In a 3x3 cell the Dirac point K folds onto Γ, so the
gap at Γ is the one that thermal disorder opens. Writes gap.png, gap.csv and md.extxyz.

S of these data (GPAW, PAW) is not exactly two-centre: the states that the table gives no norm (S
eigenvalues below --s-threshold) are projected out. What that costs is printed first, on the shipped
structures, whose gap is known from DFT.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
import warnings
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from ase import Atoms, units
from ase.build import graphene
from ase.calculators.tersoff import Tersoff, TersoffParameters
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

from deeph_gformer import overlap
from deeph_gformer.bands import load
from deeph_gformer.errors import GFormerError
from deeph_gformer.interop.ase import HamiltonianCalculator, to_atoms
from deeph_gformer.io import find_structures, read_folder
from deeph_gformer.io.files import atomic_path, write_text

GRAPHENE = pathlib.Path(__file__).resolve().parent.parent / "graphene"
#: Carbon of Lindsay and Broido, PRB 81, 205441 (2010): Tersoff's form, fitted to graphene's
#: phonons.
CARBON = TersoffParameters(
    m=3,
    gamma=1.0,
    lambda3=0.0,
    c=38049.0,
    d=4.3484,
    h=-0.930,
    n=0.72751,
    beta=1.5724e-7,
    lambda2=2.2119,
    B=430.0,
    R=1.95,
    D=0.15,
    lambda1=3.4879,
    A=1393.6,
)
VALENCE = {"C": 4}


def trajectory(frames: int, temperature: float, seed: int, settle: int = 200) -> list[Atoms]:
    """Snapshots every 10 fs of a 3x3 sheet, after ``settle`` fs of equilibration.

    Cell vectors as in the training set (lattice constant 2.46 Å).
    """
    rng = np.random.default_rng(seed)
    atoms = graphene(a=2.46, size=(3, 3, 1), vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.calc = Tersoff({("C", "C", "C"): CARBON})
    with warnings.catch_warnings():  # newer ASE has another name for it
        warnings.simplefilter("ignore")
        MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(
        atoms,
        timestep=1.0 * units.fs,
        temperature_K=temperature,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(settle)
    snapshots = []
    for number in range(frames):
        dynamics.run(10)
        snapshot = Atoms(
            atoms.numbers,
            atoms.positions - atoms.get_center_of_mass() + atoms.cell.array.sum(axis=0) / 2,
            cell=atoms.cell,
            pbc=atoms.pbc,
        )
        snapshot.info["time_fs"] = 10.0 * (number + 1)
        snapshots.append(snapshot)
    return snapshots


def check(
    calc: HamiltonianCalculator, folders: Sequence[pathlib.Path]
) -> list[tuple[float, float]]:
    """(DFT gap, our gap) at Γ in eV of structures that have a DFT Hamiltonian."""
    pairs = []
    for folder in folders:
        if not (folder / "hamiltonians.h5").is_file():
            continue
        problem = load(folder)
        h, s = problem.at((0, 0, 0))
        levels = scipy.linalg.eigh(h, s, eigvals_only=True)
        half = (
            int(
                sum(
                    VALENCE[symbol] for symbol in to_atoms(problem.structure).get_chemical_symbols()
                )
            )
            // 2
        )
        atoms = to_atoms(read_folder(folder), pbc=(True, True, False))
        atoms.calc = calc
        pairs.append((float(levels[half] - levels[half - 1]), gap_at_gamma(calc)))
    return pairs


def gap_at_gamma(calc: HamiltonianCalculator) -> float:
    """Lowest empty minus highest filled level at Γ, eV."""
    levels = calc.get_eigenvalues(0)
    half = int(sum(VALENCE[symbol] for symbol in calc.atoms.get_chemical_symbols())) // 2
    return float(levels[half] - levels[half - 1])


def plot(path: pathlib.Path, times: np.ndarray, gaps: np.ndarray, title: str) -> None:
    """Gap over time, and its histogram at the side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(8, 3.2),
        sharey=True,
        gridspec_kw={"width_ratios": (4, 1), "wspace": 0.04},
        layout="constrained",
    )
    left.plot(times, gaps, ".-", color="tab:blue", lw=1)
    left.axhline(gaps.mean(), color="0.5", ls="--", lw=1)
    left.set(xlabel="time (fs)", ylabel="gap at Γ (meV)", title=title, ylim=(0, None))
    right.hist(gaps, bins=15, orientation="horizontal", color="tab:blue")
    right.set(xlabel="frames")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    plt.close(figure)


def run(args: argparse.Namespace) -> int:
    """Check on DFT structures, then the loop over the trajectory; returns the exit code."""
    folders = find_structures(args.structures)
    provider = (
        overlap.load(args.overlap, extrapolate=True)
        if args.overlap
        else overlap.TableOverlap(overlap.fit_table(folders), extrapolate=True)
    )
    model = args.model if args.model.exists() else None
    print(
        f"model: {model or 'stage 1 alone'} on {args.stage1}; S: "
        f"{args.overlap or f'table fitted to {len(folders)} structures of {args.structures}'}",
        flush=True,
    )
    calc = HamiltonianCalculator(
        model, args.stage1, provider, valence=VALENCE, kpts=(1, 1, 1), s_threshold=args.s_threshold
    )
    pairs = check(calc, folders)
    for folder, (dft, ours) in zip(folders, pairs, strict=True):
        print(
            f"check {folder.name}: gap at Γ {dft * 1e3:7.1f} meV with DFT, {ours * 1e3:7.1f} "
            "meV here",
            flush=True,
        )
    frames = (
        read(args.trajectory, ":")
        if args.trajectory
        else trajectory(args.frames, args.temperature, args.seed)
    )
    args.output.mkdir(parents=True, exist_ok=True)
    write(args.output / "md.extxyz", frames)
    gaps, start, seconds = (
        [],
        time.perf_counter(),
        {"edges": 0.0, "overlap": 0.0, "hamiltonian": 0.0},
    )
    for atoms in frames:
        atoms.calc = calc
        gaps.append(gap_at_gamma(calc) * 1e3)
        seconds = {name: value + calc.seconds[name] for name, value in seconds.items()}
    total = time.perf_counter() - start
    times = np.array([atoms.info.get("time_fs", 10.0 * n) for n, atoms in enumerate(frames)])
    values = np.array(gaps)
    write_text(
        args.output / "gap.csv",
        "time_fs,gap_meV\n"
        + "".join(f"{t:.1f},{g:.3f}\n" for t, g in zip(times, values, strict=True)),
    )
    plot(
        args.output / "gap.png",
        times,
        values,
        f"graphene 3x3, {args.temperature:g} K" if not args.trajectory else str(args.trajectory),
    )
    parts = ", ".join(f"{name} {value / len(frames) * 1e3:.0f}" for name, value in seconds.items())
    print(
        f"{len(frames)} frames in {total:.1f} s ({total / len(frames) * 1e3:.0f} ms a frame: "
        f"{parts}, rest eigenvalues)"
    )
    print(
        f"gap at Γ: mean {values.mean():.1f} meV, standard deviation {values.std():.1f}, from "
        f"{values.min():.1f} to {values.max():.1f}; figure: "
        f"{args.output / 'gap.png'}"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Band gap along a molecular dynamics trajectory of graphene."
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("md-gap-output"),
        help="where figure, table and trajectory go (default: md-gap-output)",
    )
    parser.add_argument(
        "--frames", type=int, default=100, help="snapshots, 10 fs apart (default: 100)"
    )
    parser.add_argument("--temperature", type=float, default=300.0, help="K (default: 300)")
    parser.add_argument("--seed", type=int, default=42, help="of the dynamics (default: 42)")
    parser.add_argument(
        "--trajectory", help="any trajectory that ASE reads, instead of running one"
    )
    parser.add_argument(
        "--stage1",
        type=pathlib.Path,
        default=GRAPHENE / "stage1",
        help="DeepH-E3 model folder (default: the shipped one)",
    )
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        default=GRAPHENE / "gformer",
        help="GFormer bundle; stage 1 alone where it does not exist (default: the shipped one)",
    )
    parser.add_argument(
        "--structures",
        type=pathlib.Path,
        default=GRAPHENE / "structures",
        help="structures with overlaps, for table and check (default: the shipped ones)",
    )
    parser.add_argument(
        "--overlap", help="table or basis file instead of a table fitted to --structures"
    )
    parser.add_argument(
        "--s-threshold",
        type=float,
        default=1e-3,
        help="project out states with a smaller eigenvalue of S (default: 1e-3)",
    )
    try:
        sys.exit(run(parser.parse_args()))
    except GFormerError as error:
        sys.exit(f"error: {error}")
