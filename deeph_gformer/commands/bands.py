"""``bands``: one or several Hamiltonians over each other along a path."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
from typing import TYPE_CHECKING, Any

from .fermi import fermi_of, fermi_options
from .options import (
    Number,
    filled,
    hamiltonian_options,
    kinds_of,
    load_problem,
    progress,
    say,
    window_of,
    window_option,
)

if TYPE_CHECKING:
    from ..bands import Bands, BlochProblem, FermiLevel
    from ..bands.plot import Style
    from ..bands.unfolding import Unfolded

__all__ = ["register"]


def register(sub: Any) -> None:
    """Add the parsers of this area."""
    parser = sub.add_parser(
        "bands",
        help="band structure of one or several Hamiltonians over each other",
        description="Bands along a path. A folder with a DFT Hamiltonian and a prediction shows "
        "both; --stage1 and --refined add predictions "
        "of the same structure. DFT is drawn as lines, stage 1 dashed, refined as dots, each "
        "relative to its own Fermi level.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        type=pathlib.Path,
        help="structure folder(s), legacy or DeepH-dock",
    )
    parser.add_argument(
        "--stage1",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with DeepH-E3's prediction of the first structure",
    )
    parser.add_argument(
        "--refined",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with the refined prediction of the first structure",
    )
    hamiltonian_options(parser)
    fermi_options(parser)
    group = parser.add_argument_group("path")
    group.add_argument(
        "--path",
        type=filled,
        metavar="GMKG",
        help="special points; a comma jumps: GMK,AL (default: the lattice's standard path)",
    )
    group.add_argument(
        "--path-file",
        type=pathlib.Path,
        metavar="FILE",
        help="DeepH-dock's K_PATH or DeepH-pack's band_config.json",
    )
    group.add_argument(
        "--path-from",
        choices=("auto", "ase", "seekpath"),
        default="auto",
        help="who chooses the standard path (default: ASE)",
    )
    group.add_argument(
        "--npoints",
        type=Number(int, least=1),
        default=120,
        metavar="N",
        help="k-points over the whole path (default: 120)",
    )
    group = parser.add_argument_group("unfolding")
    group.add_argument(
        "--unfold",
        type=filled,
        action="append",
        metavar="PRIMITIVE",
        help="spectral weights on the path of a primitive cell: a "
        "structure file or folder, integers "
        "(2,2,1, or nine of a matrix), or spglib; once for each layer of a slab, from below",
    )
    group.add_argument(
        "--broadening",
        type=Number(above=0),
        default=0.05,
        metavar="EV",
        help="of the spectral function in the figure (default: 0.05 eV)",
    )
    group = parser.add_argument_group("solver")
    group.add_argument(
        "--solver", choices=("auto", "dense", "sparse"), default="auto", help="default: by size"
    )
    group.add_argument(
        "--nbands",
        type=int,
        metavar="N",
        help="only N bands around the Fermi level (sparse: default 50)",
    )
    group.add_argument(
        "--engine",
        choices=("auto", "frontal", "slepc"),
        default="auto",
        help="sparse factorisation (default: frontal); slepc runs over MPI ranks: mpirun -n 4 "
        "python -m deeph_gformer bands DIR --engine slepc",
    )
    group.add_argument(
        "--check",
        choices=("auto", "count", "random", "none"),
        default="auto",
        help="sparse: show that no state was missed by counting eigenvalues (half the time), by "
        "random vectors (cheap, leaves a chance of 1e-9), "
        "not at all, or the first two by size (default)",
    )
    group.add_argument("--device", metavar="cuda", help="dense eigenvalues on a GPU, through torch")
    group = parser.add_argument_group("output")
    window_option(group, "energies shown and compared", "-3 3")
    group.add_argument(
        "--fat",
        type=filled,
        metavar="Mo-d,S-p",
        help="Mulliken projections: element, atom number or shell, or two of them with a dash",
    )
    group.add_argument(
        "--spin",
        choices=("x", "y", "z"),
        help="colour bands by a spin expectation value (spin-orbit coupling)",
    )
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
    group.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="everything, machine-readable"
    )
    parser.set_defaults(run=_run_bands)


def _wanted(args: argparse.Namespace) -> list[tuple[BlochProblem, Style]]:
    """The Hamiltonians of ``bands``, each with its style; DFT first."""
    first = args.folders[0]
    styles: dict[str, Style] = {"hamiltonian": "line", "prediction": "dashed"}
    explicit = args.stage1 is not None or args.refined is not None
    names = {folder.resolve().name for folder in args.folders}
    result: list[tuple[BlochProblem, Style]] = []
    for folder in args.folders:
        kinds = kinds_of(folder)
        for kind in kinds:
            if kind == "prediction" and explicit and "hamiltonian" in kinds:
                continue
            label = {
                "hamiltonian": "DFT",
                "prediction": "stage 1" if "hamiltonian" in kinds else "prediction",
            }[kind]
            if len(args.folders) > 1:
                name = (
                    folder.resolve().name
                    if len(names) == len(args.folders)
                    else "/".join(folder.resolve().parts[-2:])
                )
                label = f"{name} {label}" if len(kinds) > 1 else name
            problem = load_problem(args, folder, kind, label, first if folder != first else None)
            style = (
                styles[kind]
                if len(args.folders) == 1 or not result
                else "dashed"
                if len(result) == 1
                else "dots"
            )
            result.append((problem, style))
    if args.stage1 is not None:
        result.append((load_problem(args, args.stage1, "prediction", "stage 1", first), "dashed"))
    if args.refined is not None:
        result.append((load_problem(args, args.refined, "prediction", "refined", first), "dots"))
    return result


def _solve_bands(
    args: argparse.Namespace,
) -> tuple[list[tuple[str, Bands, Style]], BlochProblem, list[bool]]:
    """Bands of every Hamiltonian that ``bands`` was asked for, with label and style, the first
    Hamiltonian, and which are of its structure.
    """
    from ..bands import band_structure, read_path_file

    problems = _wanted(args)
    reference = problems[0][0]
    path: Any = args.path
    if args.path_file:
        path, settings = read_path_file(args.path_file, reference.structure)
        if (
            args.nbands is None
            and isinstance(settings.get("num_band"), int)
            and args.solver == "sparse"
        ):
            args.nbands = settings["num_band"]
    found: list[tuple[str, Bands, Style]] = []
    level: FermiLevel | None = None
    for problem, style in problems:
        if not found or level is not None:  # all relative to their own Fermi level, or all absolute
            level = fermi_of(
                args,
                problem,
                level,
                required=args.fermi != "auto",
                others=[other for other, _ in problems],
            )
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
            check=args.check,
            progress=progress,
        )
        for note in bands.notes[len(problem.notes) :]:
            say(f"{problem.label}: {note}")
        path = bands.path
        found.append((problem.label, bands, style))
        print(
            f"{problem.label}: {bands.solver}; Fermi level "
            + (f"{level.energy_eV:.4f} eV, {level.source}" if level else "unknown")
        )
    print(f"path {' '.join(t[1] for t in path.ticks)} ({path.source}), {len(path)} k-points")
    same = [reference.structure.same_as(problem.structure) for problem, _ in problems]
    for (problem, _), alike in zip(problems, same, strict=True):
        if not alike:
            say(
                f"{problem.label}: {problem.source} is of another structure than "
                f"{reference.source}, no band error"
            )
    return found, reference, same


def _require_states(bands: Bands, window: tuple[float, float]) -> None:
    from ..bands.solve import nearest_levels
    from ..errors import ConfigError

    levels = bands.aligned_eV
    if ((levels >= window[0]) & (levels <= window[1])).any():
        return
    message = f"no band of {bands.source} lies in --window {window[0]:g} {window[1]:g}"
    if bands.fermi_eV is not None:
        raise ConfigError(
            f"{message}, relative to the Fermi level {bands.fermi_eV:.4f} eV"
            f"{nearest_levels(levels)}"
        )
    say(f"{message}, an absolute one because the Fermi level is unknown: the figure is empty")


def _run_bands(args: argparse.Namespace) -> int:
    from ..bands import compare_bands, plot_comparison, plot_fat, plot_spin
    from ..bands.files import write_bands
    from ..errors import ConfigError
    from ..io.files import write_json

    asked = window_of(args)
    if args.unfold:
        return _run_unfold(args, asked)
    if args.path and args.path_file:
        raise ConfigError("--path and --path-file both say which path; give one of them")
    if args.engine == "slepc":
        from ..bands.sparse import mpi_rank

        if args.processes > 1:
            raise ConfigError(
                "--engine slepc solves a k-point over MPI ranks (mpirun -n N); leave --processes "
                "away"
            )
        if (
            mpi_rank() > 0
        ):  # the same work, for the sake of the first rank, which alone speaks and writes
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                _solve_bands(args)
            return 0
    found, reference, same = _solve_bands(args)
    window = asked or found[0][1].default_window()
    _require_states(found[0][1], window)
    errors = {
        label: compare_bands(found[0][1], bands, window)
        for (label, bands, _), alike in zip(found[1:], same[1:], strict=True)
        if alike
    }
    if errors:
        where = (
            f"within {window[1]:g} eV"
            if window[0] == -window[1]
            else f"{window[0]:g} to {window[1]:g} eV"
        )
        heads = ("MAE", "RMSE", "max", "shift", "states")
        print(f"{'band error (meV), ' + where:<34}" + "".join(f"{head:>9}" for head in heads))
        for label, error in errors.items():
            print(
                f"{label:<34}{error.mae_meV:9.3f}{error.rmse_meV:9.3f}{error.max_meV:9.3f}{error.shift_meV:9.3f}{error.states:9d}"
            )
    for output in args.output or [pathlib.Path(f"{reference.structure.name}_bands.png")]:
        if output.suffix.lower() not in (".png", ".svg", ".pdf"):
            write_bands(output, found[0][1])
        elif args.spin:
            plot_spin(found[0][1], output, axis=args.spin, window_eV=window, title=args.title)
        elif args.fat:
            plot_fat(found[0][1], output, window_eV=window, title=args.title)
        else:
            plot_comparison(found, output, window_eV=window, errors=errors, title=args.title)
        print(f"written: {output}")
    if args.json:
        write_json(
            args.json,
            {
                "structure": reference.structure.name,
                "window_eV": window,
                "bands": [bands.to_dict() for _, bands, _ in found],
                "errors": {label: error.to_dict() for label, error in errors.items()},
            },
        )
    return 0


def _run_unfold(args: argparse.Namespace, asked: tuple[float, float] | None) -> int:
    """``bands --unfold``: every Hamiltonian on the path of the first primitive cell."""
    from ..bands.files import write_bands
    from ..bands.unfolding import plot_unfolded, unfold
    from ..errors import ConfigError
    from ..io.files import write_json

    for option, value in (
        ("--fat", args.fat),
        ("--spin", args.spin),
        ("--device", args.device),
        ("--path-file", args.path_file),
    ):
        if value:
            raise ConfigError(f"--unfold and {option} exclude each other")
    problems = [problem for problem, _ in _wanted(args)]
    found: list[Unfolded] = []
    level: FermiLevel | None = None
    for problem in problems:
        if not found or level is not None:
            required = args.fermi != "auto"
            level = fermi_of(args, problem, level, required=required, others=problems)
        one = unfold(
            problem,
            args.unfold,
            args.path,
            args.npoints,
            fermi=level,
            nbands=args.nbands,
            solver=args.solver,
            path_engine=args.path_from,
            processes=args.processes,
            progress=progress,
            s_threshold=args.s_threshold,
            engine=args.engine,
            check=args.check,
        )
        for note in one.bands.notes[len(problem.notes) :]:
            say(f"{problem.label}: {note}")
        known = f"{level.energy_eV:.4f} eV, {level.source}" if level else "unknown"
        print(f"{problem.label}: {one.bands.solver}; Fermi level {known}")
        found.append(one)
    path = found[0].bands.path
    ticks = " ".join(name for _, name in path.ticks)
    print(f"path {ticks} ({path.source}), {len(path)} k-points of the primitive cell")
    window = asked or found[0].bands.default_window()
    _require_states(found[0].bands, window)
    name = problems[0].structure.name
    for output in args.output or [pathlib.Path(f"{name}_unfolded.png")]:
        if output.suffix.lower() not in (".png", ".svg", ".pdf"):
            write_bands(output, found[0].bands)
        else:
            plot_unfolded(
                found, output, window_eV=window, width_eV=args.broadening, title=args.title
            )
        print(f"written: {output}")
    if args.json:
        bands = [one.to_dict() for one in found]
        write_json(args.json, {"structure": name, "window_eV": window, "bands": bands})
    return 0
