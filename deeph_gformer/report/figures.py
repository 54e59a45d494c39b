"""Interactive figures of a report, as plotly figures; each function takes plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bands.palette import COLOURS
from ..errors import MissingDependencyError

__all__ = [
    "band_overlay",
    "block_maps",
    "error_distance",
    "geometry",
    "learning_curve",
    "require_plotly",
]

_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"family": "Helvetica, Arial, sans-serif", "size": 13},
    "margin": {"l": 70, "r": 20, "t": 60, "b": 55},
    "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
}


def require_plotly() -> Any:
    """plotly.graph_objects.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise MissingDependencyError("plotly", "report", "a report") from None
    return go


def learning_curve(history: Mapping[str, Sequence[float | None]]) -> Any:
    """Training and validation error over the epochs, logarithmic.

    Args:
        history: columns of the run's CSV file: ``epoch`` and errors in meV or eV².
    """
    go = require_plotly()
    figure = go.Figure()
    for name, values in history.items():
        if name.endswith("_meV"):
            label = name.removesuffix("_meV").replace("_", " ") + " / meV"
            figure.add_scatter(x=list(history["epoch"]), y=list(values), name=label, mode="lines")
    figure.update_layout(**_LAYOUT, height=380, xaxis_title="epoch", yaxis_title="error / meV")
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    return figure


def _joined(distance: NDArray[np.float64], energies: NDArray[np.float64]) -> tuple[Any, Any]:
    """All bands as one line with gaps between them: a figure of few traces stays quick."""
    count = energies.shape[1]
    x = np.tile(np.append(distance, np.nan), count)
    y = np.vstack([energies, np.full((1, count), np.nan)]).T.ravel()
    return (
        [None if np.isnan(v) else round(float(v), 5) for v in x],
        [None if np.isnan(v) else round(float(v), 5) for v in y],
    )


def band_overlay(bands: Mapping[str, Any]) -> Any:
    """Bands of all Hamiltonians over each other, and below them what is left, E - E_DFT.

    Args:
        bands: ``distance`` (K,), ``ticks`` [[distance, name], ...], ``window`` [low, high] eV, and
            ``energies`` {label: (K, B)} in eV relative to each one's own Fermi level; bands of
            equal column belong together.
    """
    require_plotly()
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.04
    )
    distance = np.asarray(bands["distance"], dtype=float)
    truth = np.asarray(bands["energies"]["DFT"], dtype=float)
    low, high = bands["window"]
    for label, values in bands["energies"].items():
        levels = np.asarray(values, dtype=float)
        inside = ((levels >= low) & (levels <= high)).any(axis=0)
        x, y = _joined(distance, levels[:, inside])
        style = {"color": COLOURS.get(label, "#777"), "width": 5 if label == "DFT" else 1.4}
        if label == "stage 1":
            style["dash"] = "dash"
        pale = 0.35 if label == "DFT" else 1.0  # a broad pale line, on which the others are seen
        figure.add_scatter(
            x=x, y=y, name=label, mode="lines", line=style, opacity=pale, row=1, col=1
        )
        if label != "DFT" and levels.shape == truth.shape:
            rest = np.where((truth >= low) & (truth <= high), (levels - truth) * 1e3, np.nan)
            x, y = _joined(distance, rest[:, inside])
            figure.add_scatter(
                x=x, y=y, mode="lines", line=style, showlegend=False, name=label, row=2, col=1
            )
    figure.update_layout(**_LAYOUT, height=640)
    places, names = [t[0] for t in bands["ticks"]], [t[1] for t in bands["ticks"]]
    figure.update_xaxes(tickvals=places, ticktext=names, showgrid=True)
    figure.update_yaxes(title_text="E - E<sub>F</sub> / eV", range=[low, high], row=1, col=1)
    figure.update_yaxes(title_text="E - E<sub>DFT</sub> / meV", row=2, col=1)
    return figure


def block_maps(maps: Mapping[str, Any]) -> Any:
    """Heat maps of MAE_block over shells (Fig. 3-4 of the paper), stage 1 left, refined right.

    Args:
        maps: ``rows``, ``columns``: labels of the shells; ``stage 1``, ``refined``: (a, b) in meV.
    """
    require_plotly()
    from plotly.subplots import make_subplots

    kinds = [k for k in ("stage 1", "refined") if k in maps]
    figure = make_subplots(rows=1, cols=len(kinds), subplot_titles=kinds, shared_yaxes=True)
    for column, kind in enumerate(kinds, start=1):
        figure.add_heatmap(
            z=maps[kind],
            x=maps["columns"],
            y=maps["rows"],
            coloraxis="coloraxis",
            texttemplate="%{z:.2f}",
            hovertemplate="%{y} - %{x}: %{z:.4f} meV<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_layout(
        **_LAYOUT,
        height=450,
        coloraxis={"colorscale": "Viridis", "colorbar": {"title": "meV"}},
    )
    figure.update_xaxes(title_text="second atom")
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title_text="first atom", row=1, col=1)
    return figure


def error_distance(data: Mapping[str, Sequence[float]]) -> Any:
    """Mean error of a block against the distance of its atoms.

    Args:
        data: ``distance_angstrom`` and, in meV, ``stage1_mae_meV``, ``refined_mae_meV``,
            ``mean_abs_hamiltonian_meV``.
    """
    go = require_plotly()
    figure = go.Figure()
    for key, label in (
        ("mean_abs_hamiltonian_meV", "mean |H|"),
        ("stage1_mae_meV", "stage 1"),
        ("refined_mae_meV", "refined"),
    ):
        figure.add_scatter(
            x=list(data["distance_angstrom"]),
            y=list(data[key]),
            name=label,
            mode="lines+markers",
            line={"color": COLOURS.get(label, "#999")},
        )
    figure.update_layout(
        **_LAYOUT, height=380, xaxis_title="distance / Å", yaxis_title="mean |ΔH| of a block / meV"
    )
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    return figure


def geometry(atoms: Mapping[str, Any]) -> Any:
    """The structure in three dimensions: atoms, bonds and the cell.

    Args:
        atoms: ``symbols`` (N,), ``positions`` (N, 3) and ``lattice`` (3, 3), rows, Å.
    """
    go = require_plotly()
    from ase import Atoms
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors
    from ase.neighborlist import neighbor_list

    symbols = list(atoms["symbols"])
    where, cell = np.asarray(atoms["positions"], float), np.asarray(atoms["lattice"], float)
    figure = go.Figure()
    radii = [1.2 * covalent_radii[atomic_numbers[s]] for s in symbols]
    i, j, vectors = neighbor_list("ijD", Atoms(symbols, where, cell=cell, pbc=True), radii)
    line: list[list[float | None]] = [[], [], []]
    for a, vector in zip(i, vectors, strict=True):
        for axis in range(3):
            line[axis] += [where[a, axis], where[a, axis] + vector[axis] / 2, None]
    figure.add_scatter3d(
        x=line[0],
        y=line[1],
        z=line[2],
        mode="lines",
        line={"color": "#8a949e", "width": 5},
        hoverinfo="skip",
        showlegend=False,
    )
    for symbol in dict.fromkeys(symbols):
        rows = [n for n, s in enumerate(symbols) if s == symbol]
        number = atomic_numbers[symbol]
        colour = "rgb({}, {}, {})".format(*(int(255 * c) for c in jmol_colors[number]))
        figure.add_scatter3d(
            x=where[rows, 0],
            y=where[rows, 1],
            z=where[rows, 2],
            mode="markers",
            name=symbol,
            text=[f"{symbol}, atom {n + 1}" for n in rows],
            hoverinfo="text",
            marker={
                "size": 9 * covalent_radii[number] + 4,
                "color": colour,
                "line": {"color": "#444", "width": 1},
            },
        )
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    edges: list[list[float | None]] = [[], [], []]
    for p in corners:
        for axis in range(3):
            if not p[axis]:
                q = p + np.eye(3, dtype=int)[axis]
                for d in range(3):
                    edges[d] += [float((p @ cell)[d]), float((q @ cell)[d]), None]
    figure.add_scatter3d(
        x=edges[0],
        y=edges[1],
        z=edges[2],
        mode="lines",
        name="cell",
        line={"color": "#1f5f8b", "width": 2},
        hoverinfo="skip",
    )
    drawn = np.concatenate([corners @ cell, where])
    size = drawn.max(axis=0) - drawn.min(axis=0)  # equal scales, and the longest fits the window
    figure.update_layout(
        **(_LAYOUT | {"margin": {"l": 10, "r": 10, "t": 60, "b": 10}}),
        height=520,
        scene={
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", (1.35 * size / size.max()).tolist(), strict=True)),
            "camera": {"eye": {"x": 1.4, "y": 1.2, "z": 0.7}},
        },
    )
    for name in ("xaxis", "yaxis", "zaxis"):
        figure.update_layout({"scene": {name: {"title": f"{name[0]} / Å"}}})
    return figure
