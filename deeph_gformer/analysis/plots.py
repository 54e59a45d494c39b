"""Figures of ``evaluate``: MAE_block heat maps (Fig. 3-4), parity, error against distance,
per-structure bars; each PNG with its data as JSON."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bands.palette import COLOURS
from ..io.blocks import BlockMatrix, match_keys
from ..io.files import atomic_path, write_json
from ..pipeline import HamiltonianModel, Prediction
from .metrics import StructureErrors, pair_errors

__all__ = ["distance_data", "orbital_pair_map", "write_plots"]

_STAGE1, _REFINED = COLOURS["stage 1"], COLOURS["refined"]


def orbital_pair_map(
    model: HamiltonianModel, errors: Sequence[StructureErrors], pair: tuple[int, int]
) -> np.ndarray:
    """MAE_block^H of one pair of elements over its shells: (2, shells of i, shells of j), meV.

    NaN where nothing is predicted.
    """
    blocks, targets = pair_errors(errors)[:, pair[0], pair[1]], model.targets
    shells = targets.basis.orbital_types
    out = np.full((2, len(shells[pair[0]]), len(shells[pair[1]])), np.nan)
    for c, channel in enumerate(targets.blocks):
        if pair in channel:
            out[(slice(None), *channel[pair])] = blocks[:, c]
    return out


def _common(
    prediction: Prediction, truth: BlockMatrix
) -> tuple[BlockMatrix, BlockMatrix, BlockMatrix]:
    where = match_keys(prediction.hamiltonian.keys, truth.keys)
    have = np.flatnonzero(where >= 0)
    return (
        truth.select(where[have]),
        prediction.stage1.select(have),
        prediction.hamiltonian.select(have),
    )


def write_plots(
    folder: pathlib.Path,
    model: HamiltonianModel,
    errors: Sequence[StructureErrors],
    predictions: Sequence[tuple[Prediction, BlockMatrix]],
    kind: str,
) -> list[pathlib.Path]:
    """Draw everything into ``folder``.

    Args:
        folder: is made where it is not there.
        model: names elements and shells.
        errors: of each structure.
        predictions: each with DFT's H.
        kind: which errors these are, ``raw`` or ``without μS``; it stands in every figure and file.

    Returns:
        The files.
    """
    import matplotlib

    matplotlib.use("Agg")
    return [
        *_heat_maps(folder, model, errors, kind),
        *_distance(folder, predictions, kind),
        *_parity(folder, predictions, kind),
        *_bars(folder, errors, kind),
    ]


def _save(figure: Any, path: pathlib.Path, data: dict[str, Any]) -> list[pathlib.Path]:
    import matplotlib.pyplot as plt

    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", bbox_inches="tight")
    plt.close(figure)
    write_json(path.with_suffix(".json"), data)
    return [path, path.with_suffix(".json")]


def _plain(values: np.ndarray) -> list[list[float | None]]:
    """For JSON, which has no NaN."""
    return [[float(v) if np.isfinite(v) else None for v in row] for row in values]


def _shell_labels(shells: Sequence[int]) -> list[str]:
    seen: dict[int, int] = {}
    labels = []
    for l in shells:
        seen[l] = seen.get(l, 0) + 1
        labels.append(f"{seen[l]}{'spdf'[l]}")
    return labels


def _heat_maps(
    folder: pathlib.Path, model: HamiltonianModel, errors: Sequence[StructureErrors], kind: str
) -> list[pathlib.Path]:
    import matplotlib.pyplot as plt
    from ase.data import chemical_symbols

    basis = model.targets.basis
    result: list[pathlib.Path] = []
    for i, zi in enumerate(basis.elements):
        for j, zj in enumerate(basis.elements):
            values = orbital_pair_map(model, errors, (i, j))
            if not np.isfinite(values).any():
                continue
            top = float(np.nanmax(values))
            figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.8), constrained_layout=True)
            for n, (axis, title) in enumerate(zip(axes, ("stage 1", "refined"), strict=True)):
                picture = axis.imshow(values[n], vmin=0, vmax=top, cmap="viridis")
                for (a, b), value in np.ndenumerate(values[n]):
                    if np.isfinite(value):
                        axis.text(
                            b,
                            a,
                            f"{value:.2f}",
                            ha="center",
                            va="center",
                            fontsize=7,
                            color="white" if value < 0.6 * top else "black",
                        )
                axis.set_xticks(range(values.shape[2]), _shell_labels(basis.orbital_types[j]))
                axis.set_yticks(range(values.shape[1]), _shell_labels(basis.orbital_types[i]))
                axis.set_title(f"{title}, {chemical_symbols[zi]}-{chemical_symbols[zj]}")
            figure.colorbar(picture, ax=axes, label=f"MAE$_{{block}}^H$ / meV ({kind})")
            name = f"mae_block_{chemical_symbols[zi]}_{chemical_symbols[zj]}"
            result += _save(
                figure,
                folder / f"{name}.png",
                {
                    "errors": kind,
                    "stage1_mae_meV": _plain(values[0]),
                    "refined_mae_meV": _plain(values[1]),
                    "rows_l": list(basis.orbital_types[i]),
                    "columns_l": list(basis.orbital_types[j]),
                },
            )
    return result


def distance_data(
    predictions: Sequence[tuple[Prediction, BlockMatrix]], kind: str
) -> dict[str, Any]:
    """Mean error of a block against the distance of its atoms; an atom's own block is at 0.

    Args:
        predictions: each with DFT's H.
        kind: which errors these are, ``raw`` or ``without μS``.

    Returns:
        ``distance_angstrom`` and, in meV, ``stage1_mae_meV``, ``refined_mae_meV`` and
        ``mean_abs_hamiltonian_meV``, one number per bin.
    """
    length: list[np.ndarray] = []
    sums: tuple[list[np.ndarray], ...] = ([], [], [])
    for prediction, truth in predictions:
        label, first, both = _common(prediction, truth)
        length.append(np.linalg.norm(prediction.structure.edge_vectors(label.keys), axis=1))
        counts = np.diff(label.offsets)
        for target, matrix in zip(
            sums,
            (
                np.abs(first.values - label.values),
                np.abs(both.values - label.values),
                np.abs(label.values),
            ),
            strict=False,
        ):
            target.append(np.add.reduceat(matrix, label.offsets[:-1]) / counts * 1e3)
    r, values = np.concatenate(length), [np.concatenate(s) for s in sums]
    r[r < 1e-6] = 0.0
    away = r[r > 0] if r.any() else np.ones(1)
    edges = np.linspace(away.min() - 1e-6, away.max() + 1e-6, 25)
    which = np.digitize(r, edges)  # 0: an atom's own block
    used = np.unique(which)
    centre = np.concatenate([[0.0], (edges[:-1] + edges[1:]) / 2])[used]
    mean = [np.array([v[which == n].mean() for n in used]) for v in values]
    return {
        "errors": kind,
        "distance_angstrom": centre.tolist(),
        "stage1_mae_meV": mean[0].tolist(),
        "refined_mae_meV": mean[1].tolist(),
        "mean_abs_hamiltonian_meV": mean[2].tolist(),
    }


def _distance(
    folder: pathlib.Path, predictions: Sequence[tuple[Prediction, BlockMatrix]], kind: str
) -> list[pathlib.Path]:
    import matplotlib.pyplot as plt

    data = distance_data(predictions, kind)
    centre = data["distance_angstrom"]
    figure, axis = plt.subplots(figsize=(5.5, 3.8), constrained_layout=True)
    axis.semilogy(centre, data["mean_abs_hamiltonian_meV"], color="0.6", label="mean |H|")
    axis.semilogy(centre, data["stage1_mae_meV"], "o--", color=_STAGE1, label="stage 1")
    axis.semilogy(centre, data["refined_mae_meV"], "s-", color=_REFINED, label="refined")
    axis.set_xlabel("distance / Å")
    axis.set_ylabel(f"mean |ΔH| of a block / meV ({kind})")
    axis.legend(frameon=False)
    return _save(figure, folder / "error_distance.png", data)


def _parity(
    folder: pathlib.Path, predictions: Sequence[tuple[Prediction, BlockMatrix]], kind: str
) -> list[pathlib.Path]:
    import matplotlib.pyplot as plt

    label, first, both = (
        np.concatenate([part[n].values for part in (_common(p, t) for p, t in predictions)])
        for n in range(3)
    )
    part = "Re " if np.iscomplexobj(label) else ""
    pick = np.random.default_rng(0).permutation(len(label))[:20000]
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.8), constrained_layout=True, sharey=True)
    for axis, values, title, colour in (
        (axes[0], first, "stage 1", _STAGE1),
        (axes[1], both, "refined", _REFINED),
    ):
        axis.plot(
            label[pick].real,
            (values - label)[pick].real * 1e3,
            ".",
            ms=2,
            alpha=0.4,
            color=colour,
            rasterized=True,
        )
        axis.axhline(0, color="0.5", lw=0.8)
        rms = np.sqrt(np.mean(np.abs(values - label) ** 2)) * 1e3
        axis.set_title(f"{title}: rms {rms:.2f} meV")
        axis.set_xlabel(f"{part}H (DFT) / eV")
    axes[0].set_ylabel(f"{part}(predicted - DFT) / meV ({kind})")
    return _save(
        figure,
        folder / "parity.png",
        {
            "errors": kind,
            "part": "real" if part else "all",
            "elements": len(label),
            "dft_eV": label[pick].real.tolist(),
            "stage1_eV": first[pick].real.tolist(),
            "refined_eV": both[pick].real.tolist(),
        },
    )


def _bars(folder: pathlib.Path, errors: Sequence[StructureErrors], kind: str) -> list[pathlib.Path]:
    import matplotlib.pyplot as plt

    place = np.arange(len(errors))
    figure, axis = plt.subplots(
        figsize=(max(4.0, 0.5 * len(errors) + 2), 3.6), constrained_layout=True
    )
    axis.bar(place - 0.2, [e.stage1_meV for e in errors], 0.4, color=_STAGE1, label="stage 1")
    axis.bar(place + 0.2, [e.refined_meV for e in errors], 0.4, color=_REFINED, label="refined")
    axis.set_xticks(place, [e.name for e in errors], rotation=90 if len(errors) > 8 else 0)
    axis.set_ylabel(f"MAE / meV ({kind})")
    axis.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return _save(
        figure,
        folder / "structures.png",
        {
            "errors": kind,
            "names": [e.name for e in errors],
            "stage1_mae_meV": [e.stage1_meV for e in errors],
            "refined_mae_meV": [e.refined_meV for e in errors],
        },
    )
