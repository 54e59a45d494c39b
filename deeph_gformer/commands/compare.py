"""``compare``: a Hamiltonian against its DFT Hamiltonian, block by block and state by state."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from ..results import Comparison
from .levels import fermi_of
from .loading import HamiltonianKind, kinds_of, load_problem
from .options import Number, Verb, argument, option
from .shared import LevelOptions
from .spectra import mesh_of

if TYPE_CHECKING:
    from ..bands import Bands, BlochProblem, FermiLevel
    from ..bands.compare import HamiltonianError

__all__ = ["VERBS"]

#: What a part of the comparison says, and what it adds to the JSON.
_Part = tuple[list[str], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions(LevelOptions):
    """Of ``compare``."""

    reference: pathlib.Path = argument(metavar="DIR", help="folder with the DFT Hamiltonian")
    other: pathlib.Path | None = argument(
        metavar="OTHER", default=None, help="folder with the prediction (default: DIR)"
    )
    eigenvalues: bool = option(
        default=False, help="also compare eigenvalues on the k mesh, and look for ghost bands"
    )
    window: float | None = option(
        type=Number(above=0),
        metavar="EV",
        shown="3 eV, more where the gap is wide",
        help="half-width around the Fermi level for eigenvalues",
    )
    ghost_margin: float = option(
        type=Number(least=0),
        default=0.1,
        unit="eV",
        metavar="EV",
        help="a ghost lies deeper than this in a gap of DFT",
    )
    modes: int = option(
        type=Number(int, least=0),
        default=0,
        metavar="N",
        help="also the N worst error modes at Γ, dH c = e S c, and the atoms that cause them",
    )


def _run_compare(options: CompareOptions) -> Comparison:
    from ..bands import compare
    from ..errors import DataError
    from ..io.files import real_path
    from ..io.folder import matrix_path

    other = options.other or options.reference
    if kinds_of(options.reference) == ["prediction"]:
        raise DataError(
            f"{options.reference}: holds a prediction and no DFT Hamiltonian; name the folder with "
            f"DFT's first: compare DIR {options.reference}"
        )
    reference = load_problem(options, options.reference, "hamiltonian")
    kind: HamiltonianKind = "prediction" if "prediction" in kinds_of(other) else "hamiltonian"
    if kind == "hamiltonian" and real_path(other) == real_path(options.reference):
        raise DataError(
            f"{matrix_path(other, 'prediction')}: file not found; name the folder with the "
            f"prediction: compare DIR OTHER"
        )
    label = None if kind == "prediction" else "other"  # None: what info.json knows of it
    problem = load_problem(options, other, kind, label, options.reference)
    if not reference.structure.same_as(problem.structure):
        raise DataError(
            f"{other}: holds another structure than {options.reference} (atoms, orbitals, lattice "
            f"or positions differ by more than 1e-3 Å); "
            "only two Hamiltonians of the same atoms in the same order can be compared"
        )
    error = compare(reference.h, problem.h, reference.s)
    lines = [f"{problem.label}: {problem.source}", *_error_lines(error, problem.label)]
    result: dict[str, Any] = {
        "structure": reference.structure.name,
        "reference": reference.source,
        "other": problem.source,
        "label": problem.label,
        "hamiltonian": error.to_json(),
    }
    parts = [_compare_metrics(options, reference, problem)]
    if options.eigenvalues:
        parts.append(_compare_eigenvalues(options, reference, problem))
    if options.modes:
        parts.append(_modes(options.modes, reference, problem, error.mu_eV))
    for said, found in parts:
        lines += said
        result |= found
    print("\n".join(lines))  # at the end: a part that fails leaves no half of a result
    return Comparison.of(result)


def _error_lines(error: HamiltonianError, label: str) -> list[str]:
    """The errors of H."""
    figures = (
        ("raw", error.raw_mae_meV, error.raw_rmse_meV, error.raw_max_meV),
        ("without mu S", error.mae_meV, error.rmse_meV, error.max_meV),
    )
    return [
        f"{error.blocks} blocks compared"
        + (f", {error.only_in_first} only in that of DFT" if error.only_in_first else "")
        + (f", {error.only_in_second} only in that of {label}" if error.only_in_second else "")
        + f"; mu = <dH,S>/<S,S> = {error.mu_eV * 1e3:.4f} meV",
        f"{'error of H (meV)':<24}{'MAE':>10}{'RMSE':>10}{'max':>10}",
        *(f"{name:<24}{mae:10.4f}{rmse:10.4f}{top:10.4f}" for name, mae, rmse, top in figures),
        "worst blocks (mean, meV): "
        + ", ".join(f"{name} {value:.3f}" for name, value in error.worst),
    ]


def _modes(count: int, reference: BlochProblem, problem: BlochProblem, mu_eV: float) -> _Part:
    """The worst S-weighted error modes at Γ."""
    from ..bands import error_modes

    modes = error_modes(reference, problem, count=count, mu_eV=mu_eV)
    lines = [
        f"error mode {number + 1} at Γ: {mode.energy_eV * 1e3:.2f} meV; atoms "
        + ", ".join(f"{i}-{j} {v * 1e3:.2f}" for i, j, v in mode.blocks)
        for number, mode in enumerate(modes)
    ]
    found = [
        {
            "energy_eV": m.energy_eV,
            "atom_pairs": [{"i": i, "j": j, "share_eV": v} for i, j, v in m.blocks],
        }
        for m in modes
    ]
    return lines, {"error_modes": found}


def _compare_metrics(
    options: CompareOptions, reference: BlochProblem, problem: BlochProblem
) -> _Part:
    from ..analysis.metric import Case, measure, metrics
    from ..data.gauge import aligned

    free = aligned(problem.h, reference.h, reference.s, reference.spinful)
    given = not options.counts or options.electrons or options.valence or options.bundle
    level = fermi_of(options, reference).energy_eV if given else None
    case = Case(reference.structure, reference.h, reference, (free,), level)
    lines: list[str] = []
    result: dict[str, Any] = {}
    for metric in metrics().values():
        record = measure(case, [metric])
        for key, label in metric.labels.items():
            if record.get(key) is not None:
                lines.append(f"{label}: {record[key]:.3f} meV")
        lines += [f"{metric.name}: {note}" for note in record[f"{metric.name}_notes"]]
        result |= record
    return lines, result


def _compare_eigenvalues(
    options: CompareOptions, reference: BlochProblem, problem: BlochProblem
) -> _Part:
    from ..bands import compare_bands, find_ghosts
    from ..bands.compare import mesh_bands

    lines: list[str] = []
    found: list[Bands] = []
    level: FermiLevel | None = None
    for one in (reference, problem):
        spectrum = mesh_of(options, one)
        level = fermi_of(options, one, level, spectrum, others=(reference, problem))
        lines.append(f"{one.label}: Fermi level {level.energy_eV:.4f} eV, {level.source}")
        found.append(mesh_bands(spectrum, level, one.label))
    error = compare_bands(found[0], found[1], options.window)
    ghosts = find_ghosts(found[0], found[1], options.ghost_margin)
    lines.append(
        f"eigenvalues {error.window_eV[0]:g} to {error.window_eV[1]:g} eV from E_F, meV: MAE "
        f"{error.mae_meV:.3f}, RMSE {error.rmse_meV:.3f}, max {error.max_meV:.3f}, shift "
        f"{error.shift_meV:.3f} ({error.states} states)"
    )
    lines.append(
        f"ghost states: {len(ghosts)}"
        + "".join(
            f"\n  k = {tuple(round(v, 4) for v in g.k)}: {g.energy_eV:.3f} eV, in the gap "
            f"{g.gap_eV[0]:.3f} to {g.gap_eV[1]:.3f} eV"
            for g in ghosts[:10]
        )
    )
    return lines, {
        "eigenvalues": error.to_json(),
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


VERBS = (
    Verb(
        "compare",
        "judge",
        "errors of any predicted H and of its eigenvalues; ghost bands",
        CompareOptions,
        _run_compare,
        "Compare a prediction with its DFT Hamiltonian (both in one folder, or the second "
        "folder's prediction). Errors of H are given as they are and without mu S: H and "
        "H + mu S differ in the zero of energy alone.",
        results=(Comparison,),
        examples=("compare structures/0030 out/0030 --eigenvalues --json errors.json",),
    ),
)
