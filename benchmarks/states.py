"""Do errors of DFT's states follow the errors of bands? The scatter plot of
docs/reference/metrics.md.

    python benchmarks/states.py --data DIR --output PNG [--json FILE]

For structures that neither stage of the shipped models saw, both stages: MAE of H (without μS),
first-order errors of DFT's states within 3 eV of the Fermi level at a few k-points, and their
coupling to states outside. They are held against the mean error of all bands within 3 eV on
another, denser mesh, each H at its own Fermi level.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import deeph_gformer
from deeph_gformer.analysis.states import dft_states, state_errors
from deeph_gformer.bands import BlochProblem, compare, load, solve_dense
from deeph_gformer.io.files import read_json, write_json
from deeph_gformer.pipeline import HamiltonianModel

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
STRUCTURES = {
    "graphene": [f"graphene_gpaw/00{n}" for n in (30, 31, 32, 33)],
    "mos2": ["mos2/0008", "mos2/0009"],
    "bilayer_graphene": [
        "bilayer_graphene/0010",
        "bilayer_graphene/0011",
        "bilayer_graphene_21.8deg/0000",
        "bilayer_graphene_21.8deg/0001",
        "bilayer_graphene_21.8deg_0K/0000",
    ],
    "bismuthene": ["bismuthene/0007", "bismuthene/0008", "bismuthene_21.8deg_0K/0000"],
    "bi2te3": ["bi2te3/0008", "bi2te3/0009"],
    "bi2se3": ["bi2se3/0005"],
}


def levels(problem: BlochProblem, mesh: int) -> np.ndarray:
    """(K, n), eV, on a mesh shifted off Γ."""
    points = [[(a + 0.25) / mesh, (b + 0.25) / mesh, 0.0] for a in range(mesh) for b in range(mesh)]
    return np.array([solve_dense(*problem.at(k)).energies for k in points])


def aligned(energies: np.ndarray, electrons: int) -> np.ndarray:
    """Relative to the middle between the highest filled and the lowest empty level."""
    ordered = np.sort(energies, axis=None)
    return energies - (ordered[electrons - 1] + ordered[electrons]) / 2


def judge(model: HamiltonianModel, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Errors of stage 1 and of both stages on one structure with DFT's H; its edges are the blocks
    of S, which are all that a new structure has.
    """
    dft, prediction = load(folder), model.predict(folder, edges="overlaps")
    states = dft_states(dft)
    mesh = 2 if "deg" in folder.parent.name else 3
    filled = levels(dft, mesh)
    below = (filled < states.fermi_eV).sum() / len(filled)  # a semimetal's is not whole
    electrons = round(below) * len(filled)
    reference = aligned(filled, electrons)
    low, high = states.window_eV
    inside = (reference > low) & (reference < high)
    rows = []
    for stage, h in (("stage 1", prediction.stage1), ("refined", prediction.hamiltonian)):
        found = state_errors(states, h)
        problem = BlochProblem(dft.structure, h, dft.s)
        error = (aligned(levels(problem, mesh), electrons) - reference)[inside] * 1e3
        rows.append(
            {
                "stage": stage,
                "mae_meV": compare(dft.h, h, dft.s).mae_meV,
                "states_error_meV": found.error_meV,
                "ghost_meV": found.ghost_meV,
                "bands_meV": float(np.abs(error).mean()),
                "bands_without_shift_meV": float(np.abs(error - error.mean()).mean()),
            }
        )
    return rows


def band_errors(model: HamiltonianModel, folder: pathlib.Path) -> tuple[float, float]:
    """Mean error of the bands within 3 eV in meV, of stage 1 and of both stages."""
    first, both = judge(model, folder)
    return first["bands_meV"], both["bands_meV"]


def measure(data: pathlib.Path) -> list[dict[str, Any]]:
    """One row per structure and stage."""
    rows = []
    for name, folders in STRUCTURES.items():
        base = EXAMPLES / "graphene" if name == "graphene" else EXAMPLES / "systems/models" / name
        model = deeph_gformer.load(base / "gformer", stage1=base / "stage1")
        for folder in folders:
            for row in judge(model, data / folder):
                rows.append({"system": name, "structure": folder, **row})
                print(
                    "  ".join(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1].values()),
                    flush=True,
                )
    return rows


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Three panels: MAE of H, states, states and coupling, against bands."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import matplotlib.ticker

    columns = {
        "MAE of H": lambda r: r["mae_meV"],
        "states, first order": lambda r: r["states_error_meV"],
        "states + coupling": lambda r: r["states_error_meV"] + r["ghost_meV"],
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), constrained_layout=True, sharey=True)
    for axis, (title, value) in zip(axes, columns.items(), strict=False):
        for number, name in enumerate(STRUCTURES):
            for stage, marker in (("stage 1", "o"), ("refined", "s")):
                own = [r for r in rows if r["system"] == name and r["stage"] == stage]
                axis.loglog(
                    [value(r) for r in own],
                    [r["bands_meV"] for r in own],
                    marker,
                    color=f"C{number}",
                    mfc="none" if stage == "stage 1" else None,
                    label=name if stage == "refined" else None,
                )
        rank = spearmanr([value(r) for r in rows], [r["bands_meV"] for r in rows]).statistic
        axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axis.set_title(f"{title}: rank correlation {rank:.2f}", fontsize=10)
        axis.set_xlabel(f"{title} / meV")
    axes[0].set_ylabel("bands within 3 eV / meV")
    axes[2].legend(frameon=False, fontsize=8, title="open: stage 1")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure (or read), print correlations, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="unpacked DFT sets")
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="written; read without --data"
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, metavar="PNG")
    args = parser.parse_args()
    rows = measure(args.data) if args.data else read_json(args.json)
    if args.data and args.json:
        write_json(args.json, rows)
    for target in ("bands_meV", "bands_without_shift_meV"):
        wanted = [r[target] for r in rows]
        for key in ("mae_meV", "states_error_meV", "ghost_meV"):
            rank = spearmanr([r[key] for r in rows], wanted).statistic
            print(f"{key} against {target}: {rank:.3f}")
        both = spearmanr([r["states_error_meV"] + r["ghost_meV"] for r in rows], wanted).statistic
        print(f"states + coupling against {target}: {both:.3f} ({len(rows)} rows)")
    draw(rows, args.output)


if __name__ == "__main__":
    main()
