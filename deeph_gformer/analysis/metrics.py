"""Error metrics of Tables 2-4, in meV."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..algebra.blocks import BlockAssembly
from ..algebra.orbitals import TargetBlocks
from ..data.gauge import aligned
from ..errors import DataError
from ..io.blocks import BlockMatrix, match_keys

__all__ = [
    "StructureErrors",
    "structure_errors",
    "gauge_errors",
    "headline_errors",
    "headline",
    "block_errors",
    "pair_errors",
    "summarise",
]


@dataclasses.dataclass(frozen=True)
class StructureErrors:
    """Errors of one structure against DFT, over the elements of the blocks that both have.

    Attributes:
        name: of the structure.
        stage1_meV: mean |ΔH| of stage 1 (of the complex difference for spin-orbit), meV.
        refined_meV: the same of both stages.
        elements: number of matrix elements.
        stage1_max_meV: largest |ΔH|.
        refined_max_meV: the same of both stages.
        block_sum: (2, P, C), sum of |ΔH| over the elements of each pair of elements (i n + j, n
            elements) and output channel, meV, for stage 1 and refined.
        block_count: (P, C), number of matrix elements.
    """

    name: str
    stage1_meV: float
    refined_meV: float
    elements: int
    stage1_max_meV: float
    refined_max_meV: float
    block_sum: NDArray[np.float64]
    block_count: NDArray[np.int64]


def structure_errors(
    name: str,
    truth: BlockMatrix,
    stage1: BlockMatrix,
    refined: BlockMatrix,
    targets: TargetBlocks,
    node_type: NDArray[np.int64],
) -> StructureErrors:
    """Compare two predictions (same edges) with DFT.

    Raises:
        DataError: prediction and DFT have no block in common.
    """
    where = match_keys(refined.keys, truth.keys)
    have = np.flatnonzero(where >= 0)
    if not len(have):
        raise DataError(
            f"structure '{name}': prediction and hamiltonians.h5 have no block in common"
        )
    assembly = BlockAssembly(targets)
    label, mask = assembly.from_matrix(truth.select(where[have]), node_type)
    kinds = len(targets.basis.elements)
    keys = truth.keys[where[have]]
    pair = node_type[keys[:, 3]] * kinds + node_type[keys[:, 4]]

    def by_pair(values: NDArray[np.number] | NDArray[np.bool_]) -> NDArray[np.float64]:
        """(E, ..., K) summed over the edges of each pair of elements and the components of each
        channel."""
        each = np.zeros((kinds**2, targets.width))
        for kind in np.unique(pair):
            each[kind] = values[pair == kind].reshape(-1, targets.width).sum(axis=0)
        return np.add.reduceat(each, targets.slices[:-1], axis=1)

    sums, means, maxima = [], [], []
    for matrix in (stage1, refined):
        vector, _ = assembly.from_matrix(matrix.select(have), node_type)
        error = (
            np.abs(vector.astype(np.complex128 if np.iscomplexobj(vector) else np.float64) - label)
            * 1e3
        )
        error = np.where(mask, error, 0.0)
        sums.append(by_pair(error))
        means.append(float(error.sum() / mask.sum()))
        maxima.append(float(error.max()))
    return StructureErrors(
        name,
        means[0],
        means[1],
        int(mask.sum()),
        maxima[0],
        maxima[1],
        np.array(sums),
        by_pair(mask).astype(np.int64),
    )


def _mean(total: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def gauge_errors(
    name: str,
    truth: BlockMatrix,
    stage1: BlockMatrix,
    refined: BlockMatrix,
    overlap: BlockMatrix | None,
    targets: TargetBlocks,
    node_type: NDArray[np.int64],
) -> dict[str, StructureErrors]:
    """Errors of two predictions without and with the zero of energy.

    Args:
        name: of the structure.
        truth: DFT's H.
        stage1: H of stage 1.
        refined: H of both stages, on the same edges.
        overlap: S, spinless; None where it is not there.
        targets: of the model.
        node_type: (N,).

    Returns:
        ``gauge_free`` (without μS, the error that matters; first, and only where there is S), and
        ``raw``.

    Raises:
        DataError: prediction and DFT have no block in common.
    """
    kinds = {"raw": (stage1, refined)}
    if overlap is not None:
        spinful = targets.basis.spinful
        free = tuple(aligned(h, truth, overlap, spinful) for h in (stage1, refined))
        kinds = {"gauge_free": (free[0], free[1]), **kinds}
    return {
        kind: structure_errors(name, truth, *pair, targets, node_type)
        for kind, pair in kinds.items()
    }


def headline_errors(kinds: Sequence[Mapping[str, StructureErrors]]) -> str:
    """Which of :func:`gauge_errors` a set of structures is told in: ``gauge_free`` where all have
    S, else ``raw``.

    Args:
        kinds: of each structure.
    """
    return "gauge_free" if all("gauge_free" in k for k in kinds) else "raw"


def means(kinds: Sequence[Mapping[str, StructureErrors]]) -> dict[str, float]:
    """Mean errors over structures of every kind that all of them have.

    Args:
        kinds: of each structure, see :func:`gauge_errors`.

    Returns:
        ``{"gauge_free_stage1_mae_meV": ..., "raw_refined_mae_meV": ...}``.
    """
    out = {}
    for kind in ("gauge_free", "raw"):
        if kinds and all(kind in k for k in kinds):
            pairs = np.array([(k[kind].stage1_meV, k[kind].refined_meV) for k in kinds])
            first, both = pairs.mean(axis=0).tolist()
            out[f"{kind}_stage1_mae_meV"], out[f"{kind}_refined_mae_meV"] = first, both
    return out


def headline(total: Mapping[str, Any], alone: bool = False) -> str:
    """The error that matters, without μS, and the raw one after it.

    Args:
        total: with the keys of :func:`means`.
        alone: one stage ran, so there is nothing to compare with it.
    """
    free = "gauge_free_refined_mae_meV" in total

    def said(kind: str, ratio: bool) -> str:
        """One of both kinds of errors in words."""
        first, both = total[f"{kind}_stage1_mae_meV"], total[f"{kind}_refined_mae_meV"]
        if alone:
            return f"{both:.4f} meV"
        text = f"stage 1 {first:.4f} meV, refined {both:.4f} meV"
        return f"{text}, ratio {both / first:.3f}" if ratio and first > 0 else text

    if not free:
        return f"{said('raw', True)} (raw: there is no S to take the zero of energy out)"
    return f"{said('gauge_free', True)} (without μS; raw: {said('raw', False)})"


def _totals(
    errors: Sequence[StructureErrors],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums over the structures of (2, n², C) errors and of (n², C) numbers of elements."""
    return (
        np.sum([e.block_sum for e in errors], axis=0),
        np.sum([e.block_count for e in errors], axis=0),
    )


def block_errors(errors: Sequence[StructureErrors]) -> NDArray[np.float64]:
    """MAE_block^H over all structures, (2, C): stage 1 and refined, meV per output channel.

    A channel holds like pairs of shells of *all* pairs of elements; :func:`pair_errors` tells these
    apart.
    """
    total, count = _totals(errors)
    return _mean(total.sum(axis=1), count.sum(axis=0))


def pair_errors(errors: Sequence[StructureErrors]) -> NDArray[np.float64]:
    """The same for each pair of elements, (2, n, n, C); NaN where no structure has such a block."""
    total, count = _totals(errors)
    kinds = round(len(count) ** 0.5)
    return _mean(total, count).reshape(2, kinds, kinds, -1)


def summarise(errors: Sequence[StructureErrors], targets: TargetBlocks) -> dict[str, Any]:
    """MAE_all^H, MAE_cha.s^H and MAE_cha.b^H as plain values.

    MAE_all is the mean over structures of their mean |ΔH|; ``mae_elements`` is the mean over all
    elements. The challenging structure and block are those worst for stage 1.
    """
    worst = max(errors, key=lambda e: e.stage1_meV)
    blocks = block_errors(errors)
    channel = int(np.nanargmax(blocks[0]))
    elements = np.array([e.elements for e in errors], dtype=float)
    first, both = (
        np.array([e.stage1_meV for e in errors]),
        np.array([e.refined_meV for e in errors]),
    )
    out: dict[str, Any] = {"structures": len(errors)}
    for name, values, block in (("stage1", first, blocks[0]), ("refined", both, blocks[1])):
        out[name] = {
            "mae_all_meV": float(values.mean()),
            "mae_elements_meV": float((values * elements).sum() / elements.sum()),
            "mae_challenging_structure_meV": float(values[errors.index(worst)]),
            "mae_challenging_block_meV": float(block[channel]),
        }
    out["ratio_mae_all"] = float(both.mean() / first.mean()) if first.mean() > 0 else float("nan")
    out["better_structures"] = int((both < first).sum())
    out["challenging_structure"] = worst.name
    out["challenging_block"] = targets.to_json()[channel]
    return out
