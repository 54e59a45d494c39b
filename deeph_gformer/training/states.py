"""The loss in DFT's own states, which bands follow, and the errors of these states in validation.

With DFT's states C of a k-point (C† S C = 1, made once per structure) and the error ΔH(k), the Bloch
sum of the errors of all blocks, D = C† ΔH(k) C holds what states within a window around the Fermi
level feel; see :mod:`deeph_gformer.analysis.states`, which judges by the same D. Three terms:

* *first order*: how far state p moves, D_pp - μ. μ is the mean of D_pp over all states and k-points of
  the structure: a linear functional of the error, <ρ, ΔH> with a matrix ρ that is made once. A group of
  degenerate states counts with the root mean square of its eigenvalues, which is the norm of its block.
* *block*: D_pp' between different states of the window.
* *coupling*: how far the states q outside the window push into it,
  Σ_q (√(Δ² + 4|D_qp|²) - Δ) / 2 with Δ = |E_q - E_p|, about |D_qp|² / Δ: ghost states.

No eigenvalue is computed in a training step. A step takes one k-point of each structure, or a few,
drawn by their weights in the mesh with a number that depends on seed and step only.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..algebra.blocks import BlockAssembly
from ..algebra.orbitals import TargetBlocks
from ..analysis.states import (
    DEGENERATE_EV,
    SPACING,
    DftStates,
    KStates,
    StateErrors,
    block_errors,
    dft_states,
)
from ..bands.bloch import BlochProblem
from ..config import TrainingConfig
from ..data.dataset import Sample
from ..errors import ConfigError, DataError
from ..io.folder import has_matrix, matrix_path, read_folder, read_matrix
from .batches import Batch, write_tensors
from .module import masked_loss

__all__ = ["StateBank", "StateLoss", "StepStates", "bloch_sum", "state_bank", "state_blocks"]

#: Keeps gradients finite where a state does not move or two levels coincide, eV.
SMOOTH_EV = 1e-5


class BlochIndex(NamedTuple):
    """How the errors of a structure's blocks make a matrix at k.

    Attributes:
        cells: (E, 3), R of each edge, floating.
        pair: (E,) int64, number of the pair of atoms (i, j) of each edge, 0 ... P - 1.
        place: (n, n) int64, where element (a, b) stands in the flat (P + 1, K') sums over R; elements
            that nothing predicts stand in the last row, which is zero.
        pairs: (P,), the pairs; only its length counts.
    """

    cells: Tensor
    pair: Tensor
    place: Tensor
    pairs: Tensor


class StepStates(NamedTuple):
    """DFT's states of one structure at one k-point; every tensor of the same shape at every k-point.

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
        error: (E, K) or (E, 4, K), blocks in the direct-product state; zero where there is no label.
        index: of the structure.
        k: (3,), fractional.

    Returns:
        (n, n) complex; atom after atom, with spin-orbit coupling each atom's spin-up orbitals first.
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


def read_problem(folder: pathlib.Path, spinful: bool) -> BlochProblem:
    """DFT's H and S of a structure folder.

    Args:
        folder: of the structure.
        spinful: whether H is spin-doubled.

    Raises:
        DataError: there are no overlaps, or a file is damaged.
    """
    if not has_matrix(folder, "overlap"):
        raise DataError(
            f"{folder}: no overlaps, so DFT's states are not known; make them "
            "(deeph-gformer overlap), or train with training.states_weight=0 (block and coupling "
            "weights, too) and training.monitor=mae"
        )
    structure = read_folder(folder)
    return BlochProblem(
        structure,
        read_matrix(folder, "hamiltonian", structure, spinful),
        read_matrix(folder, "overlap", structure),
        source=str(matrix_path(folder, "hamiltonian")),
    )


def structure_states(
    sample: Sample,
    known: DftStates,
    index: BlochIndex,
    everything: bool,
) -> StructureStates:
    """States of one structure as tensors.

    Args:
        sample: its error is what :func:`bloch_sum` sums.
        known: DFT's states.
        index: of the structure.
        everything: keep all states, not the window's only.
    """
    real = sample.graph.edge_vector.dtype
    kind = torch.complex64 if real == torch.float32 else torch.complex128
    wide = max(last - first for first, last in (p.inside for p in known.points))
    columns: list[list[Tensor]] = []
    for point in known.points:
        first, last = point.inside
        count, pad = last - first, wide - (last - first)
        start, end = (0, len(point.energies)) if everything else (first, last)
        vectors, energies = point.vectors[:, start:end], point.energies[start:end]
        if not everything:
            vectors, energies = np.pad(vectors, ((0, 0), (0, pad))), np.pad(energies, (0, pad))
        inside = point.energies[first:last]
        group = np.cumsum(np.concatenate([[0], np.diff(inside) > DEGENERATE_EV]))
        outside = np.ones(len(energies), dtype=bool)
        outside[first - start : last - start] = False
        if not everything:
            outside[:] = False
        columns.append(
            [
                torch.as_tensor(point.k, dtype=real),
                torch.from_numpy(np.ascontiguousarray(vectors)).to(kind),
                torch.as_tensor(energies, dtype=real),
                torch.from_numpy(np.pad(np.arange(first - start, last - start), (0, pad))),
                torch.arange(wide) < count,
                torch.from_numpy(np.pad(group, (0, pad), constant_values=-1)),
                torch.from_numpy(outside),
            ]
        )
    weights = torch.tensor([p.weight for p in known.points], dtype=torch.float64)
    points = tuple(torch.stack(group) for group in zip(*columns, strict=True))
    blank = torch.zeros_like(sample.label)
    states = StructureStates(index, blank, points, weights / weights.sum())
    return states._replace(density=_density(sample, states))


def _density(sample: Sample, states: StructureStates) -> Tensor:
    """ρ of the structure: the gradient of the mean D_pp, which is linear in the error."""
    error = torch.zeros_like(sample.label).requires_grad_(True)
    masked = torch.where(sample.mask, error, error.new_zeros(()))
    total, count = masked.new_zeros((), dtype=states.points[2].dtype), 0.0
    for number, weight in enumerate(states.weights.tolist()):
        point = states.at(number)
        d = state_blocks(masked, point).index_select(0, point.columns)
        total = total + weight * (d.diagonal().real * point.valid).sum()
        count += weight * int(point.valid.sum())
    return torch.autograd.grad(total / count, error)[0]


def _amplification(sample: Sample, states: StructureStates) -> float:
    """Root mean square of D_pp over all states for independent errors of size 1 of all elements."""
    there = sample.mask.to(sample.graph.edge_vector.dtype)
    counts = bloch_sum(there, states.bloch, torch.zeros_like(states.points[0][0])).real
    total, number = 0.0, 0.0
    for n, weight in enumerate(states.weights.tolist()):
        point = states.at(n)
        size = point.vectors.index_select(1, point.columns).abs().square()
        value = (size * (counts @ size)).sum(dim=0) * point.valid
        total += weight * float(value.sum())
        number += weight * int(point.valid.sum())
    return float(np.sqrt(total / number))


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
        get: states of a structure, by its folder.
    """

    weights: tuple[float, float, float]
    kind: str
    seed: int
    count: int
    unit: float
    get: Callable[[str], StructureStates]

    def draw(self, batch: Batch, step: int) -> tuple[StepStates, ...]:
        """States of each structure of a batch at k-points that depend on seed and step.

        A k-point is expected as often as its weight says: the points of an evenly spaced comb on the
        sum of weights, whose start is drawn.

        Args:
            batch: the structures.
            step: number of the training step.

        Returns:
            ``count`` of the first structure, then of the next one.
        """
        rng = np.random.default_rng((self.seed, step))
        chosen = []
        for folder in batch.folders:
            states = self.get(folder)
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


def state_bank(
    samples: Mapping[str, Sequence[Sample]],
    targets: TargetBlocks,
    settings: TrainingConfig,
    unit: float,
    disk: pathlib.Path | None,
    say: Callable[[str], None] = print,
) -> StateBank | None:
    """DFT's states where a training needs them, for its loss or for what is the best epoch.

    Args:
        samples: under ``train`` and ``val``.
        targets: the model's channels.
        settings: of the training.
        unit: of the loss of H, eV.
        disk: folder to keep them in; None: in memory.
        say: prints a line.

    Raises:
        ConfigError: they need too much memory, or structures are rotated.
        DataError: a structure has no overlaps, Fermi level or states in the window.
    """
    weights = state_weights(settings)
    if settings.monitor == "mae" and not any(weights):
        return None
    if settings.rotate and any(weights):
        raise ConfigError(
            "training.rotate turns structures away from their states: set training.rotate=false, or "
            "training.states_weight (block and coupling, too) to 0"
        )
    return StateBank(samples["train"], samples["val"], targets, settings, unit, disk, say)


class StateBank:
    """DFT's states of all structures of a run.

    Attributes:
        loss: of the training structures, None where no term has a weight.
        words: what was made, for people.
    """

    def __init__(
        self,
        train: Sequence[Sample],
        val: Sequence[Sample],
        targets: TargetBlocks,
        settings: TrainingConfig,
        unit: float,
        folder: pathlib.Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """
        Args:
            train: training structures.
            val: validation structures.
            targets: the model's channels.
            settings: of the training.
            unit: of the loss of H, eV.
            folder: where states are kept instead of in memory.
            say: prints a line.

        Raises:
            ConfigError: the states need more memory than allowed.
            DataError: a structure without overlaps, Fermi level or states in the window.
        """
        self.targets, self.settings, self.folder = targets, settings, folder
        self._assembly = BlockAssembly(targets)
        self._kept: dict[str, StructureStates] = {}
        self._files: dict[str, pathlib.Path] = {}
        self._points: dict[str, tuple[KStates, ...]] = {}
        self._bytes, self._left_out = 0, list[str]()
        weights = state_weights(settings)
        self.loss: StateLoss | None = None
        count = len(train) * any(weights) + len(val)
        if any(weights):
            sizes = []
            for sample in train:
                states = self._make(sample, "train", bool(weights[2]), count)
                sizes.append(_amplification(sample, states))
            amplification = float(np.sqrt(np.mean(np.square(sizes))))
            self.loss = StateLoss(
                weights,
                settings.loss,
                settings.seed,
                settings.states_kpoints,
                unit * amplification,
                lambda name: self._get(name, "train"),
            )
        for sample in val:
            self._make(sample, "val", True, count)
        where = "RAM" if folder is None else "files"
        text = f"DFT's states within {settings.states_window:g} eV of the Fermi level: "
        text += f"{self._bytes / 2**20:.0f} MiB ({where})"
        if self.loss is not None:
            text += f"; unit of the state loss {self.loss.unit * 1e3:.3g} meV"
        if self._left_out:
            text += f"; {len(self._left_out)} k-points left out, first: {self._left_out[0]}"
        say(text)

    def __deepcopy__(self, memo: dict[int, Any]) -> StateBank:
        """Itself: what it holds never changes."""
        return self

    def _make(self, sample: Sample, use: str, everything: bool, count: int) -> StructureStates:
        """Solve DFT's H of one structure and keep its states.

        Args:
            sample: the structure.
            use: ``train`` or ``val``, which have other k-points.
            everything: all states, not the window's only.
            count: structures in all.
        """
        s, key = self.settings, sample.folder.resolve().as_posix()
        problem = read_problem(sample.folder, self.targets.basis.spinful)
        spacing, shift = SPACING, (0.0, 0.0, 0.0)
        if use == "train":
            spacing, shift = s.states_spacing, s.states_shift
        known = dft_states(problem, window_eV=s.states_window, spacing=spacing, shift=shift)
        self._left_out += known.left_out
        index = bloch_index(sample, self.targets, self._assembly)
        states = structure_states(sample, known, index, everything)
        self._bytes += states.nbytes
        need = max(self._bytes, states.nbytes * count) / 2**30
        if self.folder is None and need > s.states_memory:
            raise ConfigError(
                f"DFT's states of {count} structures need about {need:.1f} GiB, more than "
                f"training.states_memory = {s.states_memory:g}: raise it, set data.cache=disk, use "
                "fewer k-points (training.states_spacing) or a smaller window "
                "(training.states_window), or leave the coupling out"
            )
        if use == "val":
            none = np.empty((0, 0))
            self._points[key] = tuple(dataclasses.replace(p, vectors=none) for p in known.points)
        if self.folder is None:
            self._kept[f"{use} {key}"] = states
        else:
            path = self.folder / f"states-{use}-{sample.name}.pt"
            write_tensors(
                path, [list(states.bloch), states.density, list(states.points), states.weights]
            )
            self._files[f"{use} {key}"] = path
        return states

    def _get(self, folder: str, use: str) -> StructureStates:
        name = f"{use} {folder}"
        if name in self._kept:
            return self._kept[name]
        content = torch.load(self._files[name], map_location="cpu", weights_only=True, mmap=True)
        index, density, points, weights = content
        return StructureStates(BlochIndex(*index), density, tuple(points), weights)

    @torch.no_grad()
    def errors(self, error: Tensor, batch: Batch) -> StateErrors:
        """State errors of one validation structure, as ``evaluate`` has them.

        Args:
            error: (E, K) or (E, 4, K), prediction minus label, eV.
            batch: this one structure.
        """
        folder = batch.folders[0]
        states = self._get(folder, "val")
        error = torch.where(batch.mask, error, error.new_zeros(()))
        blocks = []
        for number in range(len(states.weights)):
            point = states.at(number).to(error.device)
            blocks.append(state_blocks(error, point)[:, point.valid].cpu().numpy())
        return block_errors(self._points[folder], blocks)
