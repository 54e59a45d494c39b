"""``bands``, ``fermi``, ``dos``, ``gap`` and ``compare``: from Hamiltonians to physics."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bands import Bands, BlochProblem, FermiLevel
    from ..bands.plot import Style

__all__ = ["register"]


def register(sub: Any) -> None:
    """Add the parsers of this area."""
    parser = sub.add_parser(
        "bands",
        help="band structure of one or several Hamiltonians over each other",
        description="Bands along a path. A folder with a DFT Hamiltonian and a prediction shows both; --stage1 and --refined add predictions "
        "of the same structure. DFT is drawn as lines, stage 1 dashed, refined as dots, each relative to its own Fermi level.",
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", type=pathlib.Path, help="structure folder(s), legacy or DeepH-dock")
    parser.add_argument("--stage1", type=pathlib.Path, metavar="DIR", help="folder with DeepH-E3's prediction of the first structure")
    parser.add_argument("--refined", type=pathlib.Path, metavar="DIR", help="folder with the refined prediction of the first structure")
    _hamiltonian_options(parser)
    _fermi_options(parser)
    group = parser.add_argument_group("path")
    group.add_argument("--path", metavar="GMKG", help="special points; a comma jumps: GMK,AL (default: the lattice's standard path)")
    group.add_argument("--path-file", type=pathlib.Path, metavar="FILE", help="DeepH-dock's K_PATH or DeepH-pack's band_config.json")
    group.add_argument(
        "--path-from", choices=("auto", "ase", "seekpath"), default="auto", help="who chooses the standard path (default: ASE)"
    )
    group.add_argument("--npoints", type=int, default=120, metavar="N", help="k-points over the whole path (default: 120)")
    group = parser.add_argument_group("solver")
    group.add_argument("--solver", choices=("auto", "dense", "sparse"), default="auto", help="default: by size")
    group.add_argument("--nbands", type=int, metavar="N", help="only N bands around the Fermi level (sparse: default 50)")
    group.add_argument(
        "--engine",
        choices=("auto", "mumps", "superlu", "frontal"),
        default="auto",
        help="sparse factorisation (default: the fastest that is installed)",
    )
    group.add_argument(
        "--no-check", action="store_true", help="sparse: do not count eigenvalues to prove the window complete (a third of the time)"
    )
    group.add_argument("--device", metavar="cuda", help="dense eigenvalues on a GPU, through torch")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--window",
        nargs=2,
        type=float,
        default=(-3.0, 3.0),
        metavar=("LOW", "HIGH"),
        help="energies shown and compared, eV relative to E_F (default: -3 3)",
    )
    group.add_argument("--fat", metavar="Mo-d,S-p", help="Mulliken projections: element, atom number or shell, or two of them with a dash")
    group.add_argument("--spin", choices=("x", "y", "z"), help="colour bands by a spin expectation value (spin-orbit coupling)")
    group.add_argument(
        "-o",
        "--output",
        type=pathlib.Path,
        action="append",
        metavar="FILE",
        help=".png, .svg, .pdf, .json, .ase.json, .Band (OpenMX), .h5 (DeepH-dock); repeatable; "
        "data files hold the first Hamiltonian (default: NAME_bands.png)",
    )
    group.add_argument("--title", help="title of the figure")
    group.add_argument("--json", type=pathlib.Path, metavar="FILE", help="everything, machine-readable")
    parser.set_defaults(run=_run_bands)

    parser = sub.add_parser("fermi", help="Fermi level by electron counting")
    _one_folder(parser)
    parser.set_defaults(run=_run_fermi)

    parser = sub.add_parser("dos", help="density of states, total and projected")
    _one_folder(parser)
    parser.add_argument("--method", choices=("gaussian", "fermi", "tetrahedron"), default="gaussian", help="broadening (default: gaussian)")
    parser.add_argument("--dos-width", type=float, default=0.05, metavar="EV", help="its width (default: 0.05 eV)")
    parser.add_argument(
        "--window", nargs=2, type=float, default=(-6.0, 6.0), metavar=("LOW", "HIGH"), help="eV relative to E_F (default: -6 6)"
    )
    parser.add_argument("--fat", metavar="Mo-d,S-p", help="Mulliken projections")
    parser.add_argument("-o", "--output", type=pathlib.Path, metavar="FILE", help="figure: .png, .svg, .pdf (default: NAME_dos.png)")
    parser.set_defaults(run=_run_dos)

    parser = sub.add_parser("gap", help="band gap and band edges")
    _one_folder(parser)
    parser.add_argument("--no-refine", action="store_true", help="edges on the mesh only, not between its points")
    parser.set_defaults(run=_run_gap)

    parser = sub.add_parser(
        "compare",
        help="errors of a Hamiltonian with the gauge mu S removed, of its eigenvalues, and ghost bands",
        description="Compare a prediction with its DFT Hamiltonian (both in one folder, or the second folder's prediction).",
    )
    parser.add_argument("reference", type=pathlib.Path, metavar="DIR", help="folder with the DFT Hamiltonian")
    parser.add_argument("other", type=pathlib.Path, nargs="?", metavar="OTHER", help="folder with the prediction (default: DIR)")
    _hamiltonian_options(parser)
    _fermi_options(parser)
    parser.add_argument("--eigenvalues", action="store_true", help="also compare eigenvalues on the k mesh, and look for ghost bands")
    parser.add_argument("--window", type=float, default=3.0, metavar="EV", help="half-width around E_F for eigenvalues (default: 3)")
    parser.add_argument("--ghost-margin", type=float, default=0.1, metavar="EV", help="how deep in a DFT gap a ghost lies (default: 0.1)")
    parser.add_argument(
        "--modes", type=int, default=0, metavar="N", help="also the N worst S-weighted error modes at Γ, and the blocks that cause them"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="everything, machine-readable")
    parser.set_defaults(run=_run_compare)


def _one_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR", help="structure folder, legacy or DeepH-dock")
    parser.add_argument(
        "--prediction", action="store_true", help="use the predicted Hamiltonian (default: the DFT one, where there is one)"
    )
    _hamiltonian_options(parser)
    _fermi_options(parser)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="the result, machine-readable")


def _hamiltonian_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Hamiltonian")
    group.add_argument(
        "--overlap", type=pathlib.Path, metavar="DIR", help="folder with the overlap (default: beside H, else the first folder's)"
    )
    group.add_argument(
        "--s-threshold",
        type=float,
        metavar="X",
        help="project out eigenvectors of S(k) with smaller eigenvalues (ill-conditioned bases; e.g. 1e-4)",
    )
    group.add_argument("--hermitize", action="store_true", help="accept a Hamiltonian far from Hermitian, as ½(H + H†)")
    group.add_argument("--processes", type=int, default=1, metavar="N", help="k-points in N parallel processes (default: 1)")


def _fermi_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Fermi level")
    group.add_argument(
        "--fermi",
        default="auto",
        metavar="auto|info|EV",
        help="auto: by counting electrons (default); info: info.json's value; or a number in eV",
    )
    group.add_argument(
        "--electrons",
        type=float,
        metavar="N",
        help="electrons per cell (default: occupation in info.json, else counted below the DFT's Fermi level)",
    )
    group.add_argument("--valence", metavar="C=4,Mo=14", help="electrons per element, instead of --electrons")
    group.add_argument("--mesh", metavar="12x12x1", help="k mesh of the counting (default: 0.12 1/Å apart)")
    group.add_argument(
        "--smearing", choices=("gaussian", "fermi", "tetrahedron"), default="gaussian", help="of the occupations (default: gaussian)"
    )
    group.add_argument("--width", type=float, default=0.02, metavar="EV", help="of the smearing (default: 0.02 eV)")


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _progress(done: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r  k-point {done}/{count}", end="\n" if done == count else "", file=sys.stderr, flush=True)


def _kinds(folder: pathlib.Path) -> list[Any]:
    """Which Hamiltonians a folder has."""
    from ..errors import DataError
    from ..io.folder import matrix_path

    kinds = [kind for kind in ("hamiltonian", "prediction") if matrix_path(folder, kind).is_file()]
    if not kinds:
        names = " nor ".join(matrix_path(folder, kind).name for kind in ("hamiltonian", "prediction"))
        raise DataError(f"{folder}: a structure without a Hamiltonian, neither {names} is there")
    return kinds


def _load(
    args: argparse.Namespace, folder: pathlib.Path, kind: Any, label: str | None = None, fallback: pathlib.Path | None = None
) -> BlochProblem:
    """Read H and S; S from --overlap, beside H, or from ``fallback``."""
    from ..bands import load
    from ..io.folder import matrix_path

    overlap = args.overlap
    if overlap is None and fallback is not None and not matrix_path(folder, "overlap").is_file():
        overlap = fallback
    problem = load(folder, kind, overlap, label=label, hermitize=args.hermitize)
    for note in problem.notes:
        _say(f"{problem.label}: {note}")
    return problem


def _level(
    args: argparse.Namespace, problem: BlochProblem, known: FermiLevel | None = None, spectrum: Any = None, required: bool = True
) -> FermiLevel | None:
    """The Fermi level that the options ask for; ``known`` lends its number of electrons."""
    from ..bands import FermiLevel, fermi_level
    from ..bands.bandstructure import DENSE_LIMIT
    from ..bands.fermi import electron_number, parse_valence
    from ..bands.loading import info_fermi_eV
    from ..errors import ConfigError, GFormerError

    if args.fermi == "info":
        stated = info_fermi_eV(problem.structure)
        if stated is None:
            raise ConfigError(
                f"{problem.source}: --fermi info, but info.json has neither fermi_level nor fermi_energy_eV; give --electrons N or --fermi VALUE"
            )
        return FermiLevel(stated, "info.json of this folder, as asked (the DFT's value)")
    if args.fermi not in ("auto", "count"):
        try:
            return FermiLevel(float(args.fermi), "given with --fermi")
        except ValueError:
            raise ConfigError(f"--fermi {args.fermi}: auto, info, or an energy in eV") from None
    valence = parse_valence(args.valence) if args.valence else None
    electrons, source = args.electrons, "given with --electrons"
    if electrons is None and valence is None and known is not None and known.electrons is not None:
        electrons, source = known.electrons, known.electrons_source
    try:
        if problem.size > DENSE_LIMIT and spectrum is None:
            from ..bands.sparse import fermi_level_by_inertia

            number = electron_number(problem.structure, electrons, valence)
            if number is None:
                raise ConfigError(
                    f"{problem.source}: the number of electrons is unknown; give --electrons N, --valence C=4,..., --fermi info or --fermi VALUE"
                )
            return fermi_level_by_inertia(problem, number[0], electrons_source=number[1])
        return fermi_level(
            problem,
            electrons,
            args.mesh,
            args.smearing,
            args.width,
            valence=valence,
            count_at_info=not problem.predicted,
            spectrum=spectrum,
            electrons_source=source if electrons is not None else None,
            s_threshold=args.s_threshold,
            processes=args.processes,
        )
    except GFormerError as error:
        if required or args.electrons is not None or valence is not None:
            raise
        _say(f"no Fermi level, energies are absolute: {error}")
        return None


def _wanted(args: argparse.Namespace) -> list[tuple[BlochProblem, Style]]:
    """The Hamiltonians of ``bands``, each with its style; DFT first."""
    first = args.folders[0]
    styles: dict[str, Style] = {"hamiltonian": "line", "prediction": "dashed"}
    explicit = args.stage1 is not None or args.refined is not None
    result: list[tuple[BlochProblem, Style]] = []
    for folder in args.folders:
        kinds = _kinds(folder)
        for kind in kinds:
            if kind == "prediction" and explicit and "hamiltonian" in kinds:
                continue
            label = {"hamiltonian": "DFT", "prediction": "stage 1" if "hamiltonian" in kinds else "prediction"}[kind]
            if len(args.folders) > 1:
                label = f"{folder.resolve().name} {label}" if len(kinds) > 1 else folder.resolve().name
            problem = _load(args, folder, kind, label, first if folder != first else None)
            style = styles[kind] if len(args.folders) == 1 or not result else "dashed" if len(result) == 1 else "dots"
            result.append((problem, style))
    if args.stage1 is not None:
        result.append((_load(args, args.stage1, "prediction", "stage 1", first), "dashed"))
    if args.refined is not None:
        result.append((_load(args, args.refined, "prediction", "refined", first), "dots"))
    return result


def _run_bands(args: argparse.Namespace) -> int:
    from ..bands import band_structure, compare_bands, plot_comparison, plot_fat, plot_spin, read_path_file
    from ..bands.files import write_bands
    from ..errors import ConfigError
    from ..io.files import write_json

    if args.path and args.path_file:
        raise ConfigError("--path and --path-file both say which path; give one of them")
    problems = _wanted(args)
    reference = problems[0][0]
    path: Any = args.path
    if args.path_file:
        path, settings = read_path_file(args.path_file, reference.structure)
        if args.nbands is None and isinstance(settings.get("num_band"), int) and args.solver == "sparse":
            args.nbands = settings["num_band"]
    found: list[tuple[str, Bands, Style]] = []
    level: FermiLevel | None = None
    for problem, style in problems:
        level = _level(args, problem, level, required=args.fermi != "auto")
        bands = band_structure(
            problem,
            path,
            args.npoints,
            args.solver,
            nbands=args.nbands,
            fermi=level,
            path_engine=args.path_from,
            projections=args.fat,
            spin=bool(args.spin),
            s_threshold=args.s_threshold,
            processes=args.processes,
            device=args.device,
            engine=args.engine,
            check=not args.no_check,
            progress=_progress,
        )
        for note in bands.notes[len(problem.notes) :]:
            _say(f"{problem.label}: {note}")
        path = bands.path
        found.append((problem.label, bands, style))
        print(f"{problem.label}: {bands.solver}; Fermi level " + (f"{level.energy_eV:.4f} eV, {level.source}" if level else "unknown"))
    print(f"path {' '.join(t[1] for t in path.ticks)} ({path.source}), {len(path)} k-points")
    window = (args.window[0], args.window[1])
    half = max(abs(window[0]), abs(window[1]))
    errors = {label: compare_bands(found[0][1], bands, half) for label, bands, _ in found[1:]}
    if errors:
        print(f"{'band error (meV), within ' + format(half, 'g') + ' eV':<34}{'MAE':>9}{'RMSE':>9}{'max':>9}{'shift':>9}{'states':>9}")
        for label, error in errors.items():
            print(f"{label:<34}{error.mae_meV:9.3f}{error.rmse_meV:9.3f}{error.max_meV:9.3f}{error.shift_meV:9.3f}{error.states:9d}")
    for output in args.output or [pathlib.Path(f"{reference.structure.name}_bands.png")]:
        if output.suffix.lower() not in (".png", ".svg", ".pdf"):
            write_bands(output, found[0][1])
        elif args.spin:
            plot_spin(found[0][1], output, axis=args.spin, window_eV=window, title=args.title)
        elif args.fat:
            plot_fat(found[0][1], output, window_eV=window, title=args.title)
        else:
            plot_comparison(found, output, window_eV=window, title=args.title)
        print(f"written: {output}")
    if args.json:
        write_json(
            args.json,
            {
                "structure": reference.structure.name,
                "window_eV": half,
                "bands": [bands.to_dict() for _, bands, _ in found],
                "errors": {label: error.to_dict() for label, error in errors.items()},
            },
        )
    return 0


def _single(args: argparse.Namespace) -> BlochProblem:
    kinds = _kinds(args.folder)
    kind = "prediction" if args.prediction else kinds[0]
    problem = _load(args, args.folder, kind)
    print(f"{problem.label}: {problem.source}")
    return problem


def _run_fermi(args: argparse.Namespace) -> int:
    from ..io.files import write_json

    problem = _single(args)
    level = _level(args, problem)
    print(f"Fermi level {level.energy_eV:.6f} eV: {level.source}")
    if args.json:
        write_json(args.json, {"structure": problem.structure.name, "hamiltonian": problem.source, **level.to_dict()})
    return 0


def _run_dos(args: argparse.Namespace) -> int:
    from ..bands import density_of_states, mesh_spectrum, plot_dos
    from ..io.files import write_json

    problem = _single(args)
    spectrum = mesh_spectrum(
        problem, args.mesh, projections=args.fat, s_threshold=args.s_threshold, processes=args.processes, progress=_progress
    )
    for note in spectrum.notes:
        _say(note)
    level = _level(args, problem, spectrum=spectrum, required=args.fermi != "auto")
    window = (args.window[0], args.window[1])
    dos = density_of_states(
        problem, method=args.method, width_eV=args.dos_width, window=window, projections=args.fat, fermi=level, spectrum=spectrum
    )
    print(f"Fermi level {level.energy_eV:.4f} eV: {level.source}" if level else "Fermi level unknown, energies are absolute")
    output = args.output or pathlib.Path(f"{problem.structure.name}_dos.png")
    plot_dos([dos], output)
    print(f"written: {output} ({args.method}, {'x'.join(map(str, spectrum.mesh))} mesh)")
    if args.json:
        write_json(args.json, {"structure": problem.structure.name, "hamiltonian": problem.source, **dos.to_dict()})
    return 0


def _run_gap(args: argparse.Namespace) -> int:
    from ..bands import band_gap, mesh_spectrum
    from ..bands.fermi import electron_number, parse_valence
    from ..io.files import write_json

    problem = _single(args)
    spectrum = mesh_spectrum(problem, args.mesh, s_threshold=args.s_threshold, processes=args.processes, progress=_progress)
    for note in spectrum.notes:
        _say(note)
    number = electron_number(problem.structure, args.electrons, parse_valence(args.valence) if args.valence else None)
    if number is None:
        level = _level(argparse.Namespace(**{**vars(args), "fermi": "auto"}), problem, spectrum=spectrum)
        number = float(level.electrons), level.electrons_source
    gap = band_gap(problem, number[0], spectrum=spectrum, refine=not args.no_refine, s_threshold=args.s_threshold)
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
    from ..io.files import write_json

    other = args.other or args.reference
    reference = _load(args, args.reference, "hamiltonian")
    kind = "prediction" if "prediction" in _kinds(other) else "hamiltonian"
    problem = _load(args, other, kind, "prediction", args.reference)
    error = compare(reference.h, problem.h, reference.s)
    print(
        f"{error.blocks} blocks compared"
        + (f", {error.only_in_first} only in DFT" if error.only_in_first else "")
        + (f", {error.only_in_second} only in the prediction" if error.only_in_second else "")
        + f"; mu = <dH,S>/<S,S> = {error.mu_eV * 1e3:.4f} meV"
    )
    print(f"{'error of H (meV)':<24}{'MAE':>10}{'RMSE':>10}{'max':>10}")
    print(f"{'raw':<24}{error.raw_mae_meV:10.4f}{error.raw_rmse_meV:10.4f}{error.raw_max_meV:10.4f}")
    print(f"{'without mu S':<24}{error.mae_meV:10.4f}{error.rmse_meV:10.4f}{error.max_meV:10.4f}")
    print("worst blocks (mean, meV): " + ", ".join(f"{name} {value:.3f}" for name, value in error.worst))
    result: dict[str, Any] = {
        "structure": reference.structure.name,
        "reference": reference.source,
        "other": problem.source,
        "hamiltonian": error.to_dict(),
    }
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
            {"energy_eV": m.energy_eV, "atom_pairs": [{"i": i, "j": j, "share_eV": v} for i, j, v in m.blocks]} for m in modes
        ]
    if args.json:
        write_json(args.json, result)
    return 0


def _compare_eigenvalues(args: argparse.Namespace, reference: BlochProblem, problem: BlochProblem) -> dict[str, Any]:
    from ..bands import compare_bands, find_ghosts, mesh_spectrum
    from ..bands.compare import mesh_bands

    found, level = [], None
    for one in (reference, problem):
        spectrum = mesh_spectrum(one, args.mesh, s_threshold=args.s_threshold, processes=args.processes, progress=_progress)
        level = _level(args, one, level, spectrum)
        print(f"{one.label}: Fermi level {level.energy_eV:.4f} eV, {level.source}")
        found.append(mesh_bands(spectrum, level, one.label))
    error = compare_bands(found[0], found[1], args.window)
    ghosts = find_ghosts(found[0], found[1], args.ghost_margin)
    print(
        f"eigenvalues within {args.window:g} eV of E_F, meV: MAE {error.mae_meV:.3f}, RMSE {error.rmse_meV:.3f}, max {error.max_meV:.3f}, "
        f"shift {error.shift_meV:.3f} "
        f"({error.states} states)"
    )
    print(
        f"ghost states: {len(ghosts)}"
        + "".join(
            f"\n  k = {tuple(round(v, 4) for v in g.k)}: {g.energy_eV:.3f} eV, in the gap {g.gap_eV[0]:.3f} to {g.gap_eV[1]:.3f} eV"
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
