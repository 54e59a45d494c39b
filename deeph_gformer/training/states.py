"""The loss in DFT's own states, which bands follow; :mod:`.state_bank` makes and keeps the states.

With DFT's states C of a k-point (C† S C = 1) and the error ΔH(k), the Bloch sum of the errors of
all blocks, D = C† ΔH(k) C holds what states within a window around the Fermi level feel; see
:mod:`deeph_gformer.analysis.states`, which judges by the same D. Three terms:

* *first order*: how far state p moves, D_pp - μ. μ is the mean of D_pp over all states and k-points
  of the structure: a linear functional of the error, <ρ, ΔH> with a matrix ρ that is made once. A
  group of degenerate states counts with the root mean square of its eigenvalues, which is the norm
  of its block.
* *block*: D_pp' between different states of the window.
* *coupling*: how far the states q outside the window push into it,
  Σ_q (√(Δ² + 4|D_qp|²) - Δ) / 2 with Δ = |E_q - E_p|, about |D_qp|² / Δ: ghost states.

No eigenvalue is computed in a training step. A step takes one k-point of each structure, or a few,
drawn by their weights in the mesh with a number that depends on seed and step only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..algebra.blocks import BlockAssembly
from ..algebra.orbitals import TargetBlocks
from ..config import TrainingConfig
from ..data.dataset import Sample
from .batches import Batch
from .module import masked_loss

__all__ = [
    "BlochIndex",
    "StateLoss",
    "StepStates",
    "StructureStates",
    "bloch_index",
    "bloch_sum",
    "state_blocks",
    "state_weights",
]

#: Keeps gradients finite where a state does not move or two levels coincide, eV.
SMOOTH_EV = 1e-5


class BlochIndex(NamedTuple):
    """How the errors of a structure's blocks make a matrix at k.

    Attributes:
        cells: (E, 3), R of each edge, floating.
        pair: (E,) int64, number of the pair of atoms (i, j) of each edge, 0 ... P - 1.
        place: (n, n) int64, where element (a, b) stands in the flat (P + 1, K') sums over R;
            elements that nothing predicts stand in the last row, which is zero.
        pairs: (P,), the pairs; only its length counts.
    """

    cells: Tensor
    pair: Tensor
    place: Tensor
    pairs: Tensor


class StepStates(NamedTuple):
    """DFT's states of one structure at one k-point; the same shapes at every k-point.

    Attributes:
        bloch: how blocks make a matrix at k.
        density: (E, K) or (E, 4, K), μ = Re <density, ΔH>.
        k: (3,), fractional.
        vectors: (n, m), columns are states: the window's, or all.
        energies: (m,), eV.
        columns: (w,) int64, which columns are the window's; padded.
        valid: (w,) bool, False where ``columns`` is padding.
        group: (w,) int64, degenerate states have the same number.
        outside: (m,) bool, states that are not of the window.
    """

    bloch: BlochIndex
    density: Tensor
    k: Tensor
    vectors: Tensor
    energies: Tensor
    columns: Tensor
    valid: Tensor
    group: Tensor
    outside: Tensor

    def to(self, device: torch.device | str) -> StepStates:
        """The same on another device."""
        bloch, *rest = self
        return StepStates(BlochIndex(*(t.to(device) for t in bloch)), *(t.to(device) for t in rest))

    @property
    def of_point(self) -> tuple[Tensor, ...]:
        """The tensors that differ between the k-points of a structure."""
        return self[2:]


class StructureStates(NamedTuple):
    """DFT's states of one structure at all k-points.

    Attributes:
        bloch: see :class:`BlochIndex`.
        density: see :class:`StepStates`.
        points: (nk, ...) each: the tensors of :attr:`StepStates.of_point`.
        weights: of the k-points, sum 1.
    """

    bloch: BlochIndex
    density: Tensor
    points: tuple[Tensor, ...]
    weights: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of all tensors."""
        return sum(t.nbytes for t in (*self.bloch, self.density, *self.points, self.weights))

    def at(self, number: int) -> StepStates:
        """States of one k-point."""
        return StepStates(self.bloch, self.density, *(t[number] for t in self.points))


def bloch_index(sample: Sample, targets: TargetBlocks, assembly: BlockAssembly) -> BlochIndex:
    """See :class:`BlochIndex`.

    Args:
        sample: the structure.
        targets: the model's channels.
        assembly: of these channels.
    """
    graph, spins = sample.graph, 2 if targets.basis.spinful else 1
    types, nodes = graph.node_type.numpy(), graph.nodes
    code = (graph.edge_index[0] * nodes + graph.edge_index[1]).numpy()
    pairs, pair = np.unique(code, return_inverse=True)
    width = targets.width * spins**2
    counts = np.array([targets.basis.counts(int(t)) * spins for t in types])
    starts = np.concatenate([[0], np.cumsum(counts)])
    place = np.full((starts[-1], starts[-1]), len(pairs) * width, dtype=np.int64)
    for number, both in enumerate(pairs):
        i, j = divmod(int(both), nodes)
        source = assembly.source(int(types[i]), int(types[j]))
        place[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = np.where(
            source >= 0, source + number * width, len(pairs) * width
        )
    return BlochIndex(
        graph.edge_key[:, :3].to(graph.edge_vector.dtype),
        torch.from_numpy(pair.reshape(-1)),
        torch.from_numpy(place),
        torch.from_numpy(pairs),
    )


def bloch_sum(error: Tensor, index: BlochIndex, k: Tensor) -> Tensor:
    """½(M + M†) of M(k) = Σ_R exp(2πi k·R) M(R), differentiable.

    Args:
        error: (E, K) or (E, 4, K), blocks in the direct-product state; zero without a label.
        index: of the structure.
        k: (3,), fractional.

    Returns:
        (n, n) complex; atom after atom, with spin-orbit coupling each atom's spin up first.
    """
    flat = error.reshape(len(error), -1)
    turns = index.cells @ k
    angle = 2 * torch.pi * (turns - turns.round())
    phase = torch.complex(angle.cos(), angle.sin())
    terms = flat * phase[:, None]
    sums = terms.new_zeros(len(index.pairs) + 1, flat.shape[1])
    sums = sums.index_add(0, index.pair, terms)
    matrix = sums.reshape(-1).index_select(0, index.place.reshape(-1)).reshape(index.place.shape)
    return (matrix + matrix.mH) / 2


def state_blocks(error: Tensor, states: StepStates) -> Tensor:
    """D = C† ΔH(k) C, columns of the window.

    Args:
        error: see :func:`bloch_sum`.
        states: of one structure at one k-point.

    Returns:
        (m, w) complex, eV.
    """
    window = states.vectors.index_select(1, states.columns)
    return states.vectors.mH @ (bloch_sum(error, states.bloch, states.k) @ window)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b>."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return (a * b).sum()


class StateTerms(NamedTuple):
    """The terms of the loss of one structure; without unit, but ``moved_meV``, mean |D_pp - μ|."""

    first: Tensor
    block: Tensor
    coupling: Tensor
    moved_meV: Tensor


def state_terms(error: Tensor, states: StepStates, kind: str, unit: float) -> StateTerms:
    """The three terms for one structure, means over the states of the window.

    Args:
        error: see :func:`bloch_sum`.
        states: of this structure at one k-point.
        kind: of the loss, see :func:`.module.masked_loss`.
        unit: eV.
    """
    d = state_blocks(error, states)
    valid = states.valid
    both = valid[:, None] & valid[None, :]
    same = both & (states.group[:, None] == states.group[None, :])
    own = d.index_select(0, states.columns)
    mu = _inner(states.density, error)
    own = own - mu * torch.eye(len(valid), dtype=own.dtype, device=own.device)
    squares = torch.view_as_real(own).square().sum(-1)
    grouped = same.to(squares.dtype)
    rows = (squares * grouped).sum(dim=1)
    moved = (grouped @ rows / grouped.sum(dim=1).clamp(min=1) + SMOOTH_EV**2).sqrt()
    gap = (states.energies[:, None] - states.energies[states.columns][None, :]).square()
    size = torch.view_as_real(d).square().sum(-1)
    gap = gap + SMOOTH_EV**2
    push = 2 * size / ((gap + 4 * size).sqrt() + gap.sqrt())
    push = (push * (states.outside[:, None] & valid[None, :])).sum()
    return StateTerms(
        masked_loss(moved, valid, kind, unit),
        masked_loss(own, both & ~same, kind, unit),
        push / unit / valid.sum().clamp(min=1),
        masked_loss(moved.detach(), valid, "mae", 1e-3),
    )


def state_weights(settings: TrainingConfig) -> tuple[float, float, float]:
    """Weights of the terms in the order of :class:`StateTerms`."""
    return (
        settings.states_weight,
        settings.states_block_weight,
        settings.states_coupling_weight,
    )


@dataclasses.dataclass
class StateLoss:
    """The state terms of training structures.

    Attributes:
        weights: of the terms.
        kind: of the loss.
        seed: of the k-points that are drawn.
        count: k-points of each structure that are drawn.
        unit: eV: that of H times the mean amplification, which is how far a state moves where all
            elements of H have independent errors of the unit of H.
        get: states of a structure, by :attr:`.Sample.key`.
    """

    weights: tuple[float, float, float]
    kind: str
    seed: int
    count: int
    unit: float
    get: Callable[[str], StructureStates]

    def draw(self, batch: Batch, step: int) -> tuple[StepStates, ...]:
        """States of each structure of a batch at k-points that depend on seed and step.

        A k-point is expected as often as its weight says: the points of an evenly spaced comb on
        the sum of weights, whose start is drawn.

        Args:
            batch: the structures.
            step: number of the training step.

        Returns:
            ``count`` of the first structure, then of the next one.
        """
        rng = np.random.default_rng((self.seed, step))
        chosen = []
        for key in batch.keys:
            states = self.get(key)
            ends = np.cumsum(states.weights.numpy())
            comb = (rng.random() + np.arange(self.count)) / self.count * ends[-1]
            chosen += [states.at(int(n)) for n in np.searchsorted(ends, comb, side="right")]
        return tuple(chosen)

    def __call__(
        self, error: Tensor, batch: Batch, states: Sequence[StepStates]
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the terms, mean over the structures; and mean |D_pp - μ| in meV.

        Args:
            error: (E, K) or (E, 4, K) of the batch, eV.
            batch: the structures.
            states: of :meth:`draw`, on the device of the error.
        """
        error = torch.where(batch.mask, error, error.new_zeros(()))
        parts, total, moved = error.split(batch.edges), list[Tensor](), list[Tensor]()
        for n, own in enumerate(states):
            part = parts[n // self.count]
            terms = state_terms(part, own, self.kind, self.unit)
            kept = [w * t for w, t in zip(self.weights, terms[:3], strict=True) if w]
            total.append(torch.stack(kept).sum())
            moved.append(terms.moved_meV)
        return torch.stack(total).mean(), torch.stack(moved).mean()
