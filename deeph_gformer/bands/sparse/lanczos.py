"""Block Lanczos in shift-invert mode, in the metric of S, fully reorthogonalised, thick restarts.

ARPACK applies the factorised matrix to one vector at a time, which for large fronts is bound by
memory, and finds copies of a degenerate level one by one; blocks make it matrix-matrix work and
catch degenerate levels together. (K. Wu, H. Simon, SIAM J. Matrix Anal. Appl. 22, 602 (2000).)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from .product import RowParts, adjoint_product, in_single, single_of

__all__ = ["NotDefiniteError", "chance_of_missing", "polish", "shift_invert_lanczos"]

_TOLERANCE = 1e-11
"""Accepted norm of (OP - theta) x relative to theta; the eigenvalue's own error is its square."""

_NEGATIVE = 1e-4
"""Of the eigenvalues of w† S w relative to the largest: rounding, in single precision too, stays
above minus this."""

_DEPENDENT = 50
"""Columns whose share of w† S w, all of norm one, is below this many roundings are dropped."""

_NOTHING = 1e-7
"""Columns so much shorter than the longest are rounding."""

_SAFETY = 10.0
"""Residuals enter Kato's bound in the norm of S^-1; this stands for the difference."""


class NotDefiniteError(ValueError):
    """S is not positive definite; says how it was seen."""


def _orthonormal(
    w: NDArray[np.number], s: RowParts
) -> tuple[NDArray[np.number], NDArray[np.number], NDArray[np.number]]:
    """Columns of w made orthonormal in S, dependent ones dropped: (q, S q, r) with w = q r.

    Raises:
        NotDefiniteError: w† S w has an eigenvalue below zero by more than rounding.
    """
    total, sw = np.eye(w.shape[1], dtype=np.result_type(w.dtype, np.float64)), s @ w
    rounding = 1.2e-7 if w.dtype in (np.float32, np.complex64) else 2.3e-16
    for _ in range(2):
        gram = adjoint_product(w, sw).astype(total.dtype)
        norm = np.sqrt(np.abs(np.diagonal(gram).real))
        floor = max(_NOTHING, 100 * rounding) * norm.max(initial=0.0)
        norm[norm <= floor] = 0
        scale = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
        gram *= np.outer(scale, scale)
        value, vector = np.linalg.eigh((gram + gram.conj().T) / 2)
        largest = float(np.abs(value).max(initial=0.0))
        if value.min(initial=0.0) < -_NEGATIVE * largest:
            raise NotDefiniteError(f"a vector has the norm w† S w = {value.min():.3g}")
        keep = value > largest * _DEPENDENT * rounding
        root = np.sqrt(value[keep])
        turn = (scale[:, None] * vector[:, keep] / root).astype(w.dtype)
        w, sw = w @ turn, sw @ turn
        total = (root[:, None] * vector[:, keep].conj().T * norm) @ total
    return w, sw, total


class _Complement:
    """Takes known states, orthonormal in S, out of vectors."""

    def __init__(self, known: NDArray[np.number] | None, metric: RowParts) -> None:
        self._known = known
        self._dual = None if known is None else metric @ known

    def __call__(self, x: NDArray[np.number]) -> NDArray[np.number]:
        if self._known is not None and self._dual is not None:
            for _ in range(2):
                x = x - self._known @ adjoint_product(self._dual, x)
        return x


def shift_invert_lanczos(
    solve: Callable[[NDArray[np.number]], NDArray[np.number]],
    s: sp.csr_matrix,
    count: int,
    dtype: np.dtype,
    seed: int = 0,
    max_blocks: int = 120,
    tolerance: float = _TOLERANCE,
    without: NDArray[np.number] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.number], int]:
    """Eigenpairs of largest |theta| of (H - sigma S)^-1 S x = theta x.

    Args:
        solve: applies (H - sigma S)^-1 to (n, b).
        s: (n, n) positive definite.
        count: how many pairs.
        dtype: of the vectors.
        seed: of the random start.
        max_blocks: solves with a block of vectors.
        tolerance: accepted |OP x - theta x| relative to theta.
        without: (n, M) known states, orthonormal in S, among whose complement is searched: a block
            finds at most as many copies of a degenerate level as it has columns.

    Returns:
        theta (count,), ordered by decreasing size; x (n, count), orthonormal in S; how many of them
        converged.
    """
    n, metric = s.shape[0], RowParts(s)
    width = int(np.clip(count // 3, 6, 24))
    width = max(1, min(width, n // 4))
    limit = min(n - width, 7 * count + 4 * width)
    outside = _Complement(without, metric)
    start = np.random.default_rng(seed).standard_normal((n, width)).astype(dtype)
    q, sq, _ = _orthonormal(outside(start), metric)
    basis, s_basis = (
        np.zeros((n, limit + 2 * width), dtype=dtype, order="F"),
        np.zeros((n, limit + 2 * width), dtype=dtype, order="F"),
    )
    double = np.result_type(dtype, np.float64)
    t = np.zeros((limit + 2 * width, limit + 2 * width), dtype=double)
    size = 0
    theta, y, good = np.zeros(0), np.zeros((0, 0), dtype=double), 0
    for _ in range(max_blocks):
        b = q.shape[1]
        basis[:, size : size + b], s_basis[:, size : size + b] = q, sq
        w = outside(solve(sq))
        last, size = size, size + b
        projection = np.zeros((size, b), dtype=double)
        for _ in range(2):
            step = adjoint_product(s_basis[:, :size], w)
            w = w - basis[:, :size] @ step
            projection += step
        t[:size, last:size] = projection
        t[last:size, :size] = projection.conj().T
        t[last:size, last:size] = (projection[last:] + projection[last:].conj().T) / 2
        q, sq, r = _orthonormal(w, metric)
        theta, y = scipy.linalg.eigh(t[:size, :size])
        order = np.argsort(-np.abs(theta))
        theta, y = theta[order], y[:, order]
        residual = np.linalg.norm(r @ y[last:size], axis=0)
        wanted = min(count, size)
        good = int((residual[:wanted] < tolerance * np.abs(theta[:wanted])).sum())
        if (good == wanted == count) or size >= n or not q.shape[1]:
            break
        if size + q.shape[1] > limit:
            keep = min(count + width, size - b)
            turn = y[:, :keep].astype(dtype)
            basis[:, :keep] = basis[:, :size] @ turn
            s_basis[:, :keep] = s_basis[:, :size] @ turn
            t[:] = 0
            t[np.arange(keep), np.arange(keep)] = theta[:keep]
            size = keep
            theta, y = theta[:keep], np.eye(keep, dtype=double)
    return theta[:count], basis[:, :size] @ y[:size, :count].astype(dtype), good


def polish(
    solve: Callable[[NDArray[np.number]], NDArray[np.number]],
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    vectors: NDArray[np.number],
    sigma: float,
    spare: int,
    accuracy: float,
    max_steps: int = 4,
) -> tuple[NDArray[np.float64], NDArray[np.number], bool]:
    """Approximate eigenvectors nearest sigma made exact with an approximate inverse of A = H -
    sigma S.

    x - A^-1 (H x - E S x) is (E - sigma) A^-1 S x: inverse iteration on the whole subspace, in
    which an error of A^-1 meets residuals only. The error of an energy is estimated as r² / g (T.
    Kato, J. Phys. Soc. Jpn. 4, 334 (1949)), with g its distance from all states that are not in the
    subspace.

    Args:
        solve: approximates A^-1 on (n, b).
        h: (n, n) Hermitian, in full precision, eV.
        s: (n, n) Hermitian, in full precision.
        vectors: (n, c).
        sigma: eV.
        spare: how many of them, those farthest from sigma, need not be accurate.
        accuracy: of the energies, eV.
        max_steps: of inverse iteration.

    Returns:
        energies (c,), ascending, eV; vectors (n, c), orthonormal in S; whether the accuracy was
        reached.
    """
    metric, hamiltonian = RowParts(s), RowParts(h)
    for step in range(max_steps + 1):
        vectors, sx, _ = _orthonormal(vectors, metric)
        hx = hamiltonian @ vectors
        reduced = adjoint_product(vectors, hx)
        energies, rotation = scipy.linalg.eigh((reduced + reduced.conj().T) / 2)
        vectors = vectors @ rotation
        residual = hx @ rotation - (sx @ rotation) * energies
        order = np.argsort(np.abs(energies - sigma))
        mine = np.sort(order[: len(energies) - spare])
        distance = np.abs(energies - sigma)
        gap = np.maximum(distance[order[-1]] - distance[mine], 1e-12)
        error = _SAFETY * np.linalg.norm(residual[:, mine], axis=0) ** 2 / gap
        good = bool(error.max() <= accuracy)
        if good or step == max_steps:
            break
        vectors = vectors - solve(residual)
    return energies, vectors, good


def _projected(columns: Sequence[NDArray[np.number]]) -> NDArray[np.number]:
    """The operator in a Lanczos basis, from the upper triangle of its blocks; the rest by symmetry.

    Args:
        columns: of each step (basis so far, block).
    """
    size = len(columns[-1])
    t, place = np.zeros((size, size), dtype=columns[-1].dtype), 0
    for column in columns:
        t[: len(column), place : place + column.shape[1]] = column
        t[place : place + column.shape[1], : len(column)] = column.conj().T
        place += column.shape[1]
    return (t + t.conj().T) / 2


def _largest_share(mu: float, limit: float, step: int) -> float:
    """Most that |v† S w| / |w| of a missing state may be, see :func:`chance_of_missing`.

    Args:
        mu: largest |Ritz value|.
        limit: t, larger than mu.
        step: k.
    """
    bend = (step - 1) * math.acosh(1 + 2 * (limit - mu) / (limit + mu))
    return math.sqrt((limit + mu) / (limit - mu)) / math.cosh(min(bend, 700.0))


def chance_of_missing(
    solve: Callable[[NDArray[np.number]], NDArray[np.number]],
    s: sp.csr_matrix,
    found: NDArray[np.number],
    reach: float,
    *,
    accuracy: float = 0.0,
    target: float = 1e-9,
    width: int = 8,
    max_steps: int = 60,
    seed: int = 1,
) -> tuple[float, bool]:
    """Upper bound on the probability that a state within ``reach`` of sigma is not among those
    found: block Lanczos from random vectors without them.

    Let theta be the largest |1 / (E - sigma)| of a missing state, v that state, theta >= t = 1 /
    reach, and mu < t the largest |Ritz value| after k steps from w. A Chebyshev polynomial in the
    Rayleigh quotient (as in Y. Saad, SIAM J. Numer. Anal. 17, 687 (1980)) then gives |v† S w| <=
    |w| ((t + mu) / (t - mu))^(1/2) / T_(k-1)(1 + 2 (t - mu) / (t + mu)), with |w|² = w† S w. For w
    = (H - sigma S)^-1 g and normally distributed g, v† S w is normally distributed with a variance
    of at least t² / |S|, so such a small value has a known small probability. The columns of a
    block are independent: the bound is that of the worst of them to the power of their number.

    Args:
        solve: applies (H - sigma S)^-1 to (n, b).
        s: (n, n) positive definite.
        found: (n, M) states, orthonormal in S.
        reach: eV.
        accuracy: relative error of ``solve``, by which t is lowered; where it is none, everything
            is done in double precision.
        target: stop where the bound is below.
        width: columns.
        max_steps: blocks.
        seed: of the random vectors.

    Returns:
        The bound, and whether a state was met that is not among those found.
    """
    n, dtype = s.shape[0], np.result_type(found.dtype, s.dtype)
    limit = (1 - accuracy) / reach
    s_norm = float(np.abs(s).sum(axis=1).max())
    if accuracy > 0:
        s, dtype = in_single(s), single_of(dtype)
        found = found.astype(dtype)
    metric = RowParts(s)
    outside = _Complement(found, metric)
    rng, width = np.random.default_rng(seed), max(1, min(width, (n - found.shape[1]) // 4))

    start = rng.standard_normal((n, width))
    if dtype.kind == "c":
        start = start + 1j * rng.standard_normal((n, width))
    w = outside(solve(start.astype(dtype)))
    length = float(np.sqrt(np.einsum("ij,ij->j", w.conj(), metric @ w).real).max())
    q, sq, _ = _orthonormal(w, metric)
    basis, s_basis, projections = [q], [sq], []
    for step in range(1, max_steps + 1):
        w = outside(solve(sq))
        rows = [np.zeros((b.shape[1], q.shape[1]), dtype=w.dtype) for b in basis]
        for _ in range(2):
            for row, b, sb in zip(rows, basis, s_basis, strict=True):
                part = adjoint_product(sb, w)
                w = w - b @ part
                row += part
        projections.append(np.concatenate(rows))
        mu = float(np.abs(np.linalg.eigvalsh(_projected(projections))).max())
        if not mu < limit:
            return 1.0, bool(mu > (1 + accuracy) / reach)
        small = length * _largest_share(mu, limit, step)
        chance = min(1.0, math.sqrt(2 / math.pi) * small * math.sqrt(s_norm) / limit) ** width
        q, sq, _ = _orthonormal(w, metric)
        if chance <= target or not q.shape[1]:
            break
        basis.append(q)
        s_basis.append(sq)
    return chance, False
