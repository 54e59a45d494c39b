"""DFT's states of the structures of a training: solved once, kept in memory or in files."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from ..data.sketch import sketch, sketch_level
from ..errors import ConfigError, DataError
from ..io.folder import has_matrix, matrix_path, read_folder, read_matrix
from .batches import Batch, cache_path
from .checkpoint import write_tensors
from .states import (
    BlochIndex,
    StateLoss,
    StructureStates,
    bloch_index,
    bloch_sum,
    state_blocks,
    state_weights,
)

__all__ = ["StateBank", "state_bank"]


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


def state_bank(
    samples: Mapping[str, Sequence[Sample]],
    targets: TargetBlocks,
    settings: TrainingConfig,
    unit: float,
    disk: pathlib.Path | None,
    echo: Callable[[str], None] = print,
) -> StateBank | None:
    """DFT's states where a training needs them, for its loss or for what is the best epoch.

    Args:
        samples: under ``train`` and ``val``, and those of ``train`` with other edges (``varied``).
        targets: the model's channels.
        settings: of the training.
        unit: of the loss of H, eV.
        disk: folder to keep them in; None: in memory.
        echo: prints a line.

    Raises:
        ConfigError: they need too much memory, or structures are rotated.
        DataError: a structure has no overlaps, Fermi level or states in the window.
    """
    weights = state_weights(settings)
    if settings.monitor == "mae" and not any(weights):
        return None
    if settings.rotate and any(weights):
        raise ConfigError(
            "training.rotate turns structures away from their states: set training.rotate=false, "
            "or training.states_weight (block and coupling, too) to 0"
        )
    return StateBank(
        samples["train"],
        samples["val"],
        targets,
        settings,
        unit,
        disk,
        echo,
        samples.get("varied", ()),
    )


class StateBank:
    """DFT's states of all structures of a run.

    Attributes:
        loss: of the training structures, None where no term has a weight.
        read: of each structure, what its states were solved from beside H, see
            :mod:`..data.sketch`.
    """

    def __init__(
        self,
        train: Sequence[Sample],
        val: Sequence[Sample],
        targets: TargetBlocks,
        settings: TrainingConfig,
        unit: float,
        folder: pathlib.Path | None = None,
        echo: Callable[[str], None] = print,
        varied: Sequence[Sample] = (),
    ) -> None:
        """
        Args:
            train: training structures.
            val: validation structures.
            targets: the model's channels.
            settings: of the training.
            unit: of the loss of H, eV.
            folder: where states are kept instead of in memory.
            echo: prints a line.
            varied: training structures with other edges; an error has no blocks beside these.

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
        self.read: dict[str, dict[str, list[float]]] = {}
        weights = state_weights(settings)
        self.loss: StateLoss | None = None
        count = len(train) * any(weights) + len(val)
        if any(weights):
            sizes = []
            for sample in train:
                states = self._make(sample, "train", bool(weights[2]), count)
                sizes.append(_amplification(sample, states))
            for sample in varied:
                self._share(sample)
            amplification = float(np.sqrt(np.mean(np.square(sizes))))
            self.loss = StateLoss(
                weights,
                settings.loss,
                settings.seed,
                settings.states_kpoints,
                unit * amplification,
                lambda key: self._get(key, "train"),
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
        echo(text)

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
        s, key = self.settings, sample.key
        problem = read_problem(sample.folder, self.targets.basis.spinful)
        spacing, shift = SPACING, (0.0, 0.0, 0.0)
        if use == "train":
            spacing, shift = s.states_spacing, s.states_shift
        known = dft_states(
            problem,
            window_eV=s.states_window,
            spacing=spacing,
            shift=shift,
            memory_GiB=s.states_memory,
        )
        self._left_out += known.left_out
        self.read[sample.name] = {
            "S": sketch(problem.s.values),
            "the Fermi level": sketch_level(known.fermi_eV),
        }
        index = bloch_index(sample, self.targets, self._assembly)
        states = structure_states(sample, known, index, everything)
        self._bytes += states.nbytes
        need = max(self._bytes, states.nbytes * count) / 2**30
        if self.folder is None and need > s.states_memory:
            raise ConfigError(
                f"DFT's states of {count} structures need about {need:.3g} GiB, more than "
                f"training.states_memory = {s.states_memory:g}: raise it, set data.cache=disk, use "
                "fewer k-points (training.states_spacing) or a smaller window "
                "(training.states_window), or leave the coupling out"
            )
        if use == "val":
            none = np.empty((0, 0))
            self._points[key] = tuple(dataclasses.replace(p, vectors=none) for p in known.points)
        self._keep(sample, use, states)
        return states

    def _share(self, varied: Sample) -> None:
        """Keep the states of a training structure for the same one with other edges.

        H and S are the same, so are the states; only how an error becomes a matrix is of the edges.
        """
        own = self._get(dataclasses.replace(varied, variant=0).key, "train")
        index = bloch_index(varied, self.targets, self._assembly)
        states = own._replace(bloch=index, density=torch.zeros_like(varied.label))
        states = states._replace(density=_density(varied, states))
        self._bytes += states.nbytes - sum(t.nbytes for t in (*own.points, own.weights))
        self._keep(varied, "train", states)

    def _keep(self, sample: Sample, use: str, states: StructureStates) -> None:
        """In memory or in files; k-points of a structure once for all its edges."""
        name = f"{use} {sample.key}"
        if self.folder is None:
            self._kept[name] = states
            return
        path = cache_path(self.folder, sample, f"states-{use}-")
        points = [] if sample.variant else list(states.points)
        write_tensors(path, [list(states.bloch), states.density, points, states.weights])
        self._files[name] = path

    def _get(self, key: str, use: str) -> StructureStates:
        """What is kept of a sample; ``key`` is :attr:`.Sample.key`."""
        name = f"{use} {key}"
        if name in self._kept:
            return self._kept[name]
        content = torch.load(self._files[name], map_location="cpu", weights_only=True, mmap=True)
        index, density, points, weights = content
        if not points:
            points = self._get(key.partition("//")[0], use).points
        return StructureStates(BlochIndex(*index), density, tuple(points), weights)

    @torch.no_grad()
    def errors(self, error: Tensor, batch: Batch) -> StateErrors:
        """State errors of one validation structure, as ``evaluate`` has them.

        Args:
            error: (E, K) or (E, 4, K), prediction minus label, eV.
            batch: this one structure.
        """
        key = batch.keys[0]
        states = self._get(key, "val")
        error = torch.where(batch.mask, error, error.new_zeros(()))
        blocks = []
        for number in range(len(states.weights)):
            point = states.at(number).to(error.device)
            blocks.append(state_blocks(error, point)[:, point.valid].cpu().numpy())
        return block_errors(self._points[key], blocks)
