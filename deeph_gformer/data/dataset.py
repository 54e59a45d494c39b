"""Structures with labels, ready for training.

Graph, direct-product labels, mask, and the partner of every edge.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..algebra.blocks import BlockAssembly
from ..algebra.orbitals import Basis, TargetBlocks
from ..errors import DataError
from ..io.blocks import BlockMatrix, match_keys, reverse_keys, sort_keys
from ..io.folder import matrix_path, read_folder, read_matrix
from ..io.structure import Structure
from ..logs import LOGGER
from .edges import EdgeMode, select_edges
from .energies import Energies, onsite_energies
from .gauge import gauge_shift, spin_double, subtract_overlap
from .graph import Graph, build_graph, require_spin
from .symmetry import time_reversal_mean

__all__ = [
    "Labels",
    "Sample",
    "energy_zero",
    "label_edges",
    "load_sample",
    "load_samples",
    "left_out",
    "basis_of",
    "read_labels",
    "has_time_reversal",
]

#: An H that time reversal changes by more is magnetic, eV.
TIME_REVERSAL_EV = 1e-4


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled structure.

    Attributes:
        name, folder: where it comes from.
        graph: its graph.
        label: (E, K) or (E, 4, K), eV, direct product, legacy orbital order.
        mask: same shape, True where the label exists.
        partner: (E,) int64, edge (-R, j, i) of each edge.
        gauge: μ in eV that was taken out of the label as H - μS (0 for the raw gauge).
        without_edge: number of blocks of H that have no edge, and their largest element, eV.
        variant: 0 for the structure's own edges, else which others it has, see
            :mod:`.edge_variants`.
        energies: on-site ones of H, where they are known.
    """

    name: str
    folder: pathlib.Path
    graph: Graph
    label: Tensor
    mask: Tensor
    partner: Tensor
    gauge: float = 0.0
    without_edge: tuple[int, float] = (0, 0.0)
    variant: int = 0
    energies: Energies | None = None

    @property
    def key(self) -> str:
        """What no other sample has: the folder's absolute path, and the variant beyond ``//``."""
        path = self.folder.resolve().as_posix()
        return f"{path}//{self.variant}" if self.variant else path


def has_time_reversal(samples: Sequence[Sample]) -> bool:
    """Whether all labels are spin-doubled and have time reversal to :data:`TIME_REVERSAL_EV`.

    Args:
        samples: at least one.
    """
    return all(
        s.label.is_complex()
        and float(((s.label - time_reversal_mean(s.label)) * s.mask).abs().max())
        <= TIME_REVERSAL_EV / 2
        for s in samples
    )


def basis_of(folders: Sequence[pathlib.Path]) -> Basis:
    """Elements and shells of a data set, and whether it is spinful.

    Args:
        folders: structure folders, whose info.json says whether they are.

    Raises:
        DataError: structures disagree (both are named), or info.json is missing.
    """
    shells: dict[int, tuple[tuple[int, ...], pathlib.Path]] = {}
    spin: tuple[bool, pathlib.Path] | None = None
    for folder in folders:
        structure = read_folder(folder)
        for z, own in zip(structure.numbers.tolist(), structure.orbital_types, strict=True):
            known = shells.setdefault(z, (tuple(own), folder))
            if known[0] != tuple(own):
                raise DataError(
                    f"{folder}: element {z} has shells {list(own)}, but {list(known[0])} in "
                    f"{known[1]}; one set needs one basis"
                )
        if structure.spinful is None:
            raise DataError(f"{folder}: info.json with isspinful is needed for training")
        spin = spin or (structure.spinful, folder)
        if spin[0] != structure.spinful:
            raise DataError(
                f"{folder}: isspinful is {structure.spinful}, but {spin[0]} in {spin[1]}; one "
                "set needs one kind of spin"
            )
    elements = tuple(sorted(shells))
    return Basis(elements, tuple(shells[z][0] for z in elements), bool(spin and spin[0]))


def load_sample(
    folder: str | os.PathLike[str],
    targets: TargetBlocks,
    edges: EdgeMode,
    dtype: torch.dtype,
    gauge: str = "raw",
) -> Sample:
    """Read one structure with its Hamiltonian.

    Args:
        folder: legacy or DeepH-dock.
        targets: the model's channels.
        edges: see :func:`select_edges`; a training has one kind for all structures
            (:func:`.edges.training_edges`).
        dtype: real type of vectors and labels.
        gauge: ``standard`` takes μS out of H.

    Raises:
        DataError: a file is missing or damaged, or spin differs from the model's.
        ModelError: elements or shells differ.
    """
    folder = pathlib.Path(folder)
    labels = read_labels(folder, targets, gauge)
    choice = select_edges(folder, labels.structure, edges)
    if choice.lacking:
        LOGGER.warning("%s: %s", folder, choice.lacking)
    return label_edges(labels, choice.keys, targets, dtype)


class Labels(NamedTuple):
    """H of a structure as it is learned.

    Attributes:
        folder: where it comes from.
        structure: its atoms.
        hamiltonian: H, or H - μS.
        gauge: μ in eV (0 for the raw gauge).
        energies: on-site ones of H as it is in the file.
    """

    folder: pathlib.Path
    structure: Structure
    hamiltonian: BlockMatrix
    gauge: float
    energies: Energies


def read_labels(folder: pathlib.Path, targets: TargetBlocks, gauge: str) -> Labels:
    """Read atoms and Hamiltonian of one structure.

    Args:
        folder: legacy or DeepH-dock.
        targets: the model's channels.
        gauge: ``standard`` takes μS out of H.

    Raises:
        DataError: a file is missing or damaged, or spin differs from the model's.
    """
    structure = read_folder(folder)
    require_spin(structure, targets.basis, str(folder))
    spinful = targets.basis.spinful
    hamiltonian = read_matrix(folder, "hamiltonian", structure, spinful)
    hamiltonian.require_symmetric(str(matrix_path(folder, "hamiltonian")))
    energies = onsite_energies(folder.resolve().name, structure.numbers, hamiltonian)
    shift = 0.0
    if gauge == "standard":
        overlap = read_matrix(folder, "overlap", structure)
        shift = energy_zero(folder, hamiltonian, overlap, spinful)
        hamiltonian = subtract_overlap(
            hamiltonian, spin_double(overlap) if spinful else overlap, shift
        )
    return Labels(folder, structure, hamiltonian, shift, energies)


def energy_zero(
    folder: pathlib.Path, hamiltonian: BlockMatrix, overlap: BlockMatrix, spinful: bool
) -> float:
    """:func:`.gauge.gauge_shift` of a folder, eV.

    Args:
        folder: where both come from, for the message.
        hamiltonian: H.
        overlap: S, spinless.
        spinful: whether H has spin.

    Raises:
        DataError: H lacks blocks of S; names the file.
    """
    try:
        return gauge_shift(hamiltonian, overlap, spinful)
    except DataError as error:
        path = matrix_path(folder, "hamiltonian")
        raise DataError(f"{path}: {error}; or set data.gauge=raw") from None


def label_edges(
    labels: Labels,
    keys: NDArray[np.int64],
    targets: TargetBlocks,
    dtype: torch.dtype,
    variant: int = 0,
) -> Sample:
    """A structure whose edges are ``keys``, with H where H has them.

    Args:
        labels: the structure.
        keys: (E, 5), symmetric, any order.
        targets: the model's channels.
        dtype: real type of vectors and labels.
        variant: which edges they are, see :class:`Sample`.

    Raises:
        DataError, ModelError: see :func:`.graph.build_graph`.
    """
    hamiltonian = labels.hamiltonian
    keys = keys[sort_keys(keys)]
    graph = build_graph(labels.structure, keys, targets.basis, dtype)
    where = match_keys(keys, hamiltonian.keys)
    have = np.flatnonzero(where >= 0)
    kind = np.dtype({torch.float32: np.float32, torch.float64: np.float64}[dtype])
    kind = np.result_type(kind, np.complex64) if targets.basis.spinful else kind
    found, mask = BlockAssembly(targets).from_matrix(
        hamiltonian.select(where[have]), graph.node_type.numpy()
    )
    label = np.zeros((len(keys), *found.shape[1:]), dtype=kind)
    known = np.zeros(label.shape, dtype=bool)
    label[have], known[have] = found, mask
    return Sample(
        labels.folder.resolve().name,
        labels.folder,
        graph,
        torch.from_numpy(label),
        torch.from_numpy(known),
        torch.from_numpy(match_keys(reverse_keys(keys), keys)),
        labels.gauge,
        _without_edge(hamiltonian, keys),
        variant,
        labels.energies,
    )


def _without_edge(hamiltonian: BlockMatrix, keys: NDArray[np.int64]) -> tuple[int, float]:
    """:attr:`Sample.without_edge` of an H and the edges ``keys`` (E, 5)."""
    rest = hamiltonian.select(np.flatnonzero(match_keys(hamiltonian.keys, keys) < 0))
    return len(rest), float(np.abs(rest.values).max(initial=0.0))


def left_out(samples: Sequence[Sample]) -> str:
    """A sentence on blocks of H that no edge has, empty where there are none."""
    count = sum(s.without_edge[0] for s in samples)
    if not count:
        return ""
    largest = max(samples, key=lambda s: s.without_edge[1])
    return (
        f"edges are the blocks of S; {count} blocks of H without one are not learned (|H| up to "
        f"{1e3 * largest.without_edge[1]:.2g} meV, in {largest.name}; data.edges=hamiltonians "
        "learns them)"
    )


def load_samples(
    folders: Sequence[pathlib.Path],
    targets: TargetBlocks,
    edges: EdgeMode,
    dtype: torch.dtype,
    gauge: str = "raw",
) -> list[Sample]:
    """Every folder with :func:`load_sample`, whose other arguments are these."""
    return [load_sample(folder, targets, edges, dtype, gauge) for folder in folders]
