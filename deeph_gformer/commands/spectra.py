"""``fermi``, ``dos``, ``gap`` and ``compare``: figures from Hamiltonians."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from .fermi import fermi_of, fermi_options, one_folder, valence_of
from .options import (
    HamiltonianKind,
    Number,
    filled,
    hamiltonian_options,
    kinds_of,
    load_problem,
    progress,
    say,
    single_problem,
    window_of,
    window_option,
)

if TYPE_CHECKING:
    from ..bands import Bands, BlochProblem, FermiLevel

__all__ = ["register"]


def register(sub: Any) -> None:
    """Add the parsers of this area."""
    parser = sub.add_parser("fermi", help="Fermi level by electron counting")
    one_folder(parser)
    parser.set_defaults(run=_run_fermi)

    parser = sub.add_parser("dos", help="density of states, total and projected")
    one_folder(parser)
    parser.add_argument(
        "--method",
        choices=("gaussian", "fermi", "tetrahedron"),
        default="gaussian",
        help="broadening (default: gaussian)",
    )
    parser.add_argument(
        "--dos-width",
        type=Number(above=0),
        default=0.05,
        metavar="EV",
        help="its width: standard deviation of the Gaussian, kT of fermi (default: 0.05 eV)",
    )
    window_option(parser, "energies shown", "-6 6")
    parser.add_argument("--fat", type=filled, metavar="Mo-d,S-p", help="Mulliken projections")
    parser.add_argument(
        "-o",
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        help="figure: .png, .svg, .pdf (default: NAME_dos.png)",
    )
    parser.set_defaults(run=_run_dos)

    parser = sub.add_parser("gap", help="band gap and band edges")
    one_folder(parser, level=False)
    parser.add_argument(
        "--no-refine", action="store_true", help="edges on the mesh only, not between its points"
    )
    parser.set_defaults(run=_run_gap)

    parser = sub.add_parser(
        "compare",
        help="errors of a Hamiltonian with the gauge mu S removed, of its eigenvalues, and ghost "
        "bands",
        description="Compare a prediction with its DFT Hamiltonian (both in one folder, or the "
        "second folder's prediction).",
    )
    parser.add_argument(
        "reference", type=pathlib.Path, metavar="DIR", help="folder with the DFT Hamiltonian"
    )
    parser.add_argument(
        "other",
        type=pathlib.Path,
        nargs="?",
        metavar="OTHER",
        help="folder with the prediction (default: DIR)",
    )
    hamiltonian_options(parser)
    fermi_options(parser)
    parser.add_argument(
        "--eigenvalues",
        action="store_true",
        help="also compare eigenvalues on the k mesh, and look for ghost bands",
    )
    parser.add_argument(
        "--window",
        type=Number(above=0),
        metavar="EV",
        help="half-width around E_F for eigenvalues (default: 3, wider where the gap is)",
    )
    parser.add_argument(
        "--ghost-margin",
        type=Number(least=0),
        default=0.1,
        metavar="EV",
        help="how deep in a DFT gap a ghost lies (default: 0.1)",
    )
    parser.add_argument(
        "--modes",
        type=Number(int, least=0),
        default=0,
        metavar="N",
        help="also the N worst S-weighted error modes at Γ, and the blocks that cause them",
    )
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="everything, machine-readable"
    )
    parser.set_defaults(run=_run_compare)


def _run_fermi(args: argparse.Namespace) -> int:
    from ..io.files import write_json

    problem = single_problem(args)
    level = fermi_of(args, problem)
    print(f"Fermi level {level.energy_eV:.6f} eV: {level.source}")
    if args.json:
        write_json(
            args.json,
            {"structure": problem.structure.name, "hamiltonian": problem.source, **level.to_dict()},
        )
    return 0


def _run_dos(args: argparse.Namespace) -> int:
    from ..bands import density_of_states, mesh_spectrum, plot_dos
    from ..bands.solve import default_window
    from ..io.files import write_json

    window = window_of(args)
    problem = single_problem(args)
    spectrum = mesh_spectrum(
        problem,
        args.mesh,
        projections=args.fat,
        s_threshold=args.s_threshold,
        processes=args.processes,
        progress=progress,
    )
    for note in spectrum.notes:
        say(note)
    level = fermi_of(args, problem, spectrum=spectrum, required=args.fermi != "auto")
    if window is None:
        window = default_window(spectrum.energies - (level.energy_eV if level else 0.0), 6.0)
    dos = density_of_states(
        problem,
        method=args.method,
        width_eV=args.dos_width,
        window=window,
        projections=args.fat,
        fermi=level,
        spectrum=spectrum,
    )
    print(
        f"Fermi level {level.energy_eV:.4f} eV: {level.source}"
        if level
        else "Fermi level unknown, energies are absolute"
    )
    output = args.output or pathlib.Path(f"{problem.structure.name}_dos.png")
    plot_dos([dos], output)
    print(f"written: {output} ({args.method}, {'x'.join(map(str, spectrum.mesh))} mesh)")
    if args.json:
        write_json(
            args.json,
            {"structure": problem.structure.name, "hamiltonian": problem.source, **dos.to_dict()},
        )
    return 0


def _run_gap(args: argparse.Namespace) -> int:
    from ..bands import band_gap, mesh_spectrum
    from ..bands.fermi import electron_number
    from ..errors import ConfigError
    from ..io.files import write_json

    problem = single_problem(args)
    spectrum = mesh_spectrum(
        problem,
        args.mesh,
        s_threshold=args.s_threshold,
        processes=args.processes,
        progress=progress,
    )
    for note in spectrum.notes:
        say(note)
    number = electron_number(problem.structure, args.electrons, valence_of(args, problem))
    if number is None:
        level = fermi_of(args, problem, spectrum=spectrum)
        if level.electrons is None:
            raise ConfigError(f"{problem.source}: the number of electrons is unknown")
        number = level.electrons, level.electrons_source
    gap = band_gap(
        problem,
        number[0],
        spectrum=spectrum,
        refine=not args.no_refine,
        s_threshold=args.s_threshold,
    )
    print(f"{number[0]:g} electrons: {number[1]}")
    print(gap)
    if args.json:
        write_json(
            args.json,
            {
                "structure": problem.structure.name,
                "hamiltonian": problem.source,
                "electrons": number[0],
                "electrons_source": number[1],
                **gap.to_dict(),
            },
        )
    return 0


def _run_compare(args: argparse.Namespace) -> int:
    from ..bands import compare, error_modes
    from ..errors import DataError
    from ..io.files import write_json
    from ..io.folder import matrix_path

    other = args.other or args.reference
    reference = load_problem(args, args.reference, "hamiltonian")
    kind: HamiltonianKind = "prediction" if "prediction" in kinds_of(other) else "hamiltonian"
    if kind == "hamiltonian" and other.resolve() == args.reference.resolve():
        raise DataError(
            f"{matrix_path(other, 'prediction')}: file not found; name the folder with the "
            f"prediction: compare DIR OTHER"
        )
    problem = load_problem(
        args, other, kind, "prediction" if kind == "prediction" else "other", args.reference
    )
    if not reference.structure.same_as(problem.structure):
        raise DataError(
            f"{other}: holds another structure than {args.reference} (atoms, orbitals, lattice "
            f"or positions differ by more than 1e-3 Å); "
            "only two Hamiltonians of the same atoms in the same order can be compared"
        )
    error = compare(reference.h, problem.h, reference.s)
    print(
        f"{error.blocks} blocks compared"
        + (f", {error.only_in_first} only in DFT" if error.only_in_first else "")
        + (f", {error.only_in_second} only in the {problem.label}" if error.only_in_second else "")
        + f"; mu = <dH,S>/<S,S> = {error.mu_eV * 1e3:.4f} meV"
    )
    print(f"{'error of H (meV)':<24}{'MAE':>10}{'RMSE':>10}{'max':>10}")
    print(
        f"{'raw':<24}{error.raw_mae_meV:10.4f}{error.raw_rmse_meV:10.4f}{error.raw_max_meV:10.4f}"
    )
    print(f"{'without mu S':<24}{error.mae_meV:10.4f}{error.rmse_meV:10.4f}{error.max_meV:10.4f}")
    print(
        "worst blocks (mean, meV): "
        + ", ".join(f"{name} {value:.3f}" for name, value in error.worst)
    )
    result: dict[str, Any] = {
        "structure": reference.structure.name,
        "reference": reference.source,
        "other": problem.source,
        "hamiltonian": error.to_dict(),
    }
    result.update(_compare_states(reference, problem))
    if args.eigenvalues:
        result.update(_compare_eigenvalues(args, reference, problem))
    if args.modes:
        modes = error_modes(reference, problem, count=args.modes, mu_eV=error.mu_eV)
        for number, mode in enumerate(modes):
            print(
                f"error mode {number + 1} at Γ: {mode.energy_eV * 1e3:.2f} meV; atoms "
                + ", ".join(f"{i}-{j} {v * 1e3:.2f}" for i, j, v in mode.blocks)
            )
        result["error_modes"] = [
            {
                "energy_eV": m.energy_eV,
                "atom_pairs": [{"i": i, "j": j, "share_eV": v} for i, j, v in m.blocks],
            }
            for m in modes
        ]
    if args.json:
        write_json(args.json, result)
    return 0


def _compare_states(reference: BlochProblem, problem: BlochProblem) -> dict[str, Any]:
    from ..analysis.states import MOST_ORBITALS, dft_states, state_errors
    from ..errors import ConfigError, GFormerError

    try:
        if reference.size > MOST_ORBITALS:
            raise ConfigError(f"{reference.size} orbitals, more than {MOST_ORBITALS}")
        states = dft_states(reference)
        found = state_errors(states, problem.h)
    except GFormerError as error:
        print(f"no errors of states: {error}")
        return {"states_error_meV": None, "ghost_meV": None, "states_notes": [str(error)]}
    print(
        f"{found.states} states within {states.window_eV:g} eV of the Fermi level at "
        f"{found.kpoints} k-points: first-order error {found.error_meV:.3f} meV, "
        f"coupling to states outside {found.ghost_meV:.3f} meV"
    )
    for note in states.left_out:
        print(f"left out: {note}")
    return {
        "states_error_meV": found.error_meV,
        "ghost_meV": found.ghost_meV,
        "states": found.states,
        "states_notes": list(states.left_out),
    }


def _compare_eigenvalues(
    args: argparse.Namespace, reference: BlochProblem, problem: BlochProblem
) -> dict[str, Any]:
    from ..bands import compare_bands, find_ghosts, mesh_spectrum
    from ..bands.compare import mesh_bands

    found: list[Bands] = []
    level: FermiLevel | None = None
    for one in (reference, problem):
        spectrum = mesh_spectrum(
            one,
            args.mesh,
            s_threshold=args.s_threshold,
            processes=args.processes,
            progress=progress,
        )
        level = fermi_of(args, one, level, spectrum, others=(reference, problem))
        print(f"{one.label}: Fermi level {level.energy_eV:.4f} eV, {level.source}")
        found.append(mesh_bands(spectrum, level, one.label))
    error = compare_bands(found[0], found[1], args.window)
    ghosts = find_ghosts(found[0], found[1], args.ghost_margin)
    print(
        f"eigenvalues {error.window_eV[0]:g} to {error.window_eV[1]:g} eV from E_F, meV: MAE "
        f"{error.mae_meV:.3f}, RMSE {error.rmse_meV:.3f}, max {error.max_meV:.3f}, shift "
        f"{error.shift_meV:.3f} ({error.states} states)"
    )
    print(
        f"ghost states: {len(ghosts)}"
        + "".join(
            f"\n  k = {tuple(round(v, 4) for v in g.k)}: {g.energy_eV:.3f} eV, in the gap "
            f"{g.gap_eV[0]:.3f} to {g.gap_eV[1]:.3f} eV"
            for g in ghosts[:10]
        )
    )
    return {
        "eigenvalues": error.to_dict(),
        "ghosts": [
            {
                "k_fractional": list(g.k),
                "band": g.band,
                "energy_eV": g.energy_eV,
                "gap_low_eV": g.gap_eV[0] if abs(g.gap_eV[0]) < float("inf") else None,
                "gap_high_eV": g.gap_eV[1],
            }
            for g in ghosts
        ],
    }
