"""Structures with labels, ready for training.

Graph, direct-product labels, mask, and the partner of every edge.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..algebra.blocks import BlockAssembly
from ..algebra.orbitals import Basis, TargetBlocks
from ..errors import ConfigError, DataError
from ..io.blocks import BlockMatrix, match_keys, reverse_keys, sort_keys
from ..io.files import read_json
from ..io.folder import find_structures, matrix_path, read_folder, read_matrix
from ..io.spin import time_reversed
from ..io.structure import Structure
from ..logs import LOGGER
from .edges import EdgeMode, select_edges
from .equality import equal_structures
from .gauge import gauge_shift, spin_double, subtract_overlap
from .graph import Graph, build_graph

__all__ = [
    "Labels",
    "Sample",
    "label_edges",
    "load_sample",
    "load_samples",
    "left_out",
    "basis_of",
    "read_labels",
    "read_splits",
    "make_splits",
    "check_splits",
    "transpose_index",
    "hermitian_mean",
    "hermitian_product",
    "has_time_reversal",
    "time_reversal_mean",
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

    @property
    def key(self) -> str:
        """What no other sample has: the folder's absolute path, and the variant beyond ``//``."""
        path = self.folder.resolve().as_posix()
        return f"{path}//{self.variant}" if self.variant else path


def transpose_index(targets: TargetBlocks) -> Tensor:
    """Index that turns the direct-product vector of (i, j) into that of the transposed block (j,
    i).

    Returns:
        (K,) or, spin-orbit, (4 K,) on the flattened (4, K): ``transposed = vector[partner][...,
        index]`` (conjugate it for spin-orbit). -1 where the transposed element is not predicted.
    """
    width = targets.width
    channel_of = {
        (pair, shells): c
        for c, channel in enumerate(targets.blocks)
        for pair, shells in channel.items()
    }
    index = np.full(width, -1, dtype=np.int64)
    for c, channel in enumerate(targets.blocks):
        (i, j), (a, b) = next(iter(channel.items()))
        other = channel_of.get(((j, i), (b, a)))
        if other is None:
            continue
        l1, l2 = targets.degrees[c]
        if targets.degrees[other] != (l2, l1) or any(
            channel_of.get(((q, p), (t, s))) != other for (p, q), (s, t) in channel.items()
        ):
            continue
        theirs = targets.slices[other] + np.arange((2 * l1 + 1) * (2 * l2 + 1)).reshape(
            2 * l2 + 1, 2 * l1 + 1
        )
        index[targets.slices[c] : targets.slices[c + 1]] = theirs.T.reshape(-1)
    if targets.basis.spinful:
        spins = [0, 2, 1, 3]  # uu, ud, du, dd transposed
        index = np.concatenate([np.where(index >= 0, index + s * width, -1) for s in spins])
    return torch.from_numpy(index)


def hermitian_mean(vector: Tensor, partner: Tensor, index: Tensor) -> Tensor:
    """½(H_ij(R) + H_ji(-R)†) on direct-product vectors.

    Args:
        vector: (n, K') of some edges, flat.
        partner: (n, K') of their partners (-R, j, i).
        index: see :func:`transpose_index`; elements without transposed channel stay as they are.
    """
    turned = partner[:, index.clamp(min=0)]
    mean = (vector + (turned.conj() if turned.is_complex() else turned)) / 2
    if not index.is_cuda and bool((index >= 0).all()):  # a GPU would wait for the answer
        return mean
    return torch.where(index >= 0, mean, vector)


def hermitian_product(vector: Tensor, partner: Tensor, index: Tensor) -> Tensor:
    """:func:`hermitian_mean` of all edges.

    Args:
        vector: (E, K) or (E, 4, K).
        partner: (E,), edge (-R, j, i) of each edge.
        index: see :func:`transpose_index`.
    """
    flat = vector.reshape(len(vector), -1)
    return hermitian_mean(flat, flat[partner], index).reshape(vector.shape)


def time_reversal_mean(vector: Tensor) -> Tensor:
    """½(H + T H T⁻¹), T = iσ_y and complex conjugation, on direct-product vectors.

    Where the exact H has time reversal, this is a projection that no error survives enlarged.

    Args:
        vector: (E, 4, K) complex, spin pairs ↑↑, ↑↓, ↓↑, ↓↓.
    """
    return (vector + torch.stack(time_reversed(*vector.unbind(1)), dim=1)) / 2


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

    Raises:
        DataError: structures disagree; both are named.
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
    """

    folder: pathlib.Path
    structure: Structure
    hamiltonian: BlockMatrix
    gauge: float


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
    _check_spin(structure, targets.basis, folder)
    spinful = targets.basis.spinful
    hamiltonian = read_matrix(folder, "hamiltonian", structure, spinful)
    hamiltonian.require_symmetric(str(matrix_path(folder, "hamiltonian")))
    shift = 0.0
    if gauge == "standard":
        overlap = read_matrix(folder, "overlap", structure)
        try:
            shift = gauge_shift(hamiltonian, overlap, spinful)
        except DataError as error:
            path = matrix_path(folder, "hamiltonian")
            raise DataError(f"{path}: {error}; or set data.gauge=raw") from None
        hamiltonian = subtract_overlap(
            hamiltonian, spin_double(overlap) if spinful else overlap, shift
        )
    return Labels(folder, structure, hamiltonian, shift)


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
    )


def _without_edge(hamiltonian: BlockMatrix, keys: NDArray[np.int64]) -> tuple[int, float]:
    """See :class:`Sample`."""
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


def _check_spin(structure: Structure, basis: Basis, folder: pathlib.Path) -> None:
    if structure.spinful is not None and structure.spinful != basis.spinful:
        raise DataError(
            f"{folder}: info.json says isspinful = {structure.spinful}, the model predicts "
            f"{'spinful' if basis.spinful else 'spinless'} Hamiltonians"
        )


def load_samples(
    folders: Sequence[pathlib.Path],
    targets: TargetBlocks,
    edges: EdgeMode,
    dtype: torch.dtype,
    gauge: str = "raw",
) -> list[Sample]:
    """Every folder with :func:`load_sample`."""
    return [load_sample(folder, targets, edges, dtype, gauge) for folder in folders]


def read_splits(
    path: str | os.PathLike[str], root: str | os.PathLike[str], only: str | None = None
) -> dict[str, list[pathlib.Path]]:
    """Folders of train, val and test from a split file.

    Args:
        path: JSON ``{"train": [...], "val": [...], "test": [...]}``; entries are folder names, or
            ``[first, last]`` numbers of sorted folders as ``{"train": {"range": [0, 25]}}``.
        root: where the folders are.
        only: the split that is used; structures of the others need not be there.

    Raises:
        ConfigError: unknown keys or names, a structure in two splits, or an empty training set.
        DataError: no readable JSON file.
    """
    path = pathlib.Path(path)
    table: Any = read_json(path)
    if (
        not isinstance(table, dict)
        or not {"train", "val"} <= set(table)
        or set(table) - {"train", "val", "test"}
    ):
        raise ConfigError(f"{path}: a split file holds lists under 'train', 'val' and 'test'")
    folders = find_structures(root, ("hamiltonian",))
    by_name = {folder.resolve().name: folder for folder in folders}
    out: dict[str, list[pathlib.Path]] = {"train": [], "val": [], "test": []}
    owner: dict[str, str] = {}
    for split, names in table.items():
        if isinstance(names, dict) and set(names) == {"range"}:
            ends = names["range"]
            if (
                not isinstance(ends, list)
                or [type(n) for n in ends] != [int, int]
                or not 0 <= ends[0] <= ends[1] < len(folders)
            ):
                raise ConfigError(
                    f"{path}: 'range' of split '{split}' is {ends}; [first, last] with 0 <= "
                    f"first <= last <= {len(folders) - 1} is needed "
                    f"({len(folders)} structures with hamiltonians.h5 under {root})"
                )
            names = [folder.resolve().name for folder in folders[ends[0] : ends[1] + 1]]
        if not isinstance(names, list):
            raise ConfigError(
                f"{path}: split '{split}' is {names!r}; a list of folder names or "
                f'{{"range": [first, last]}} is needed'
            )
        for name in map(str, names):
            if name in owner:
                raise ConfigError(
                    f"{path}: structure '{name}' is in '{owner[name]}' and in '{split}'"
                )
            owner[name] = split
            if name in by_name:
                out[split].append(by_name[name])
            elif only in (None, split):
                raise ConfigError(
                    f"{path}: '{name}' of split '{split}' is no structure with "
                    f"hamiltonians.h5 under {root}"
                )
    return check_splits(out, str(path), needed=("train", "val") if only is None else ())


def make_splits(
    root: str | os.PathLike[str], train: float, val: float, seed: int
) -> dict[str, list[pathlib.Path]]:
    """Random splits of all structures with ``hamiltonians.h5`` under ``root``.

    The same seed gives the same splits.
    """
    folders = find_structures(root, ("hamiltonian",))
    order = np.random.default_rng(seed).permutation(len(folders))
    a = max(1, round(train * len(folders)))
    b = max(1, round(val * len(folders)))
    parts = np.split(order, [a, a + b])
    return check_splits(
        {
            name: [folders[n] for n in sorted(part)]
            for name, part in zip(("train", "val", "test"), parts, strict=True)
        },
        str(root),
    )


def check_splits(
    splits: dict[str, list[pathlib.Path]], where: str, needed: Sequence[str] = ("train", "val")
) -> dict[str, list[pathlib.Path]]:
    """The splits as they are, when they are not empty and share no structure (see
    :func:`.equality.equal_structures`).

    A structure that is twice in one split is noted on standard error.

    Args:
        splits: folders.
        where: the source of the splits, for messages.
        needed: which may not be empty.

    Raises:
        ConfigError: an empty split, or a structure in two of them.
    """
    for name in needed:
        if not splits[name]:
            count = sum(map(len, splits.values()))
            raise ConfigError(
                f"{where}: the {name} split is empty; {' and '.join(needed)} need a structure each "
                f"at least, and there {'is' if count == 1 else 'are'} {count} in all"
            )
    where_from = [(split, folder) for split, folders in splits.items() for folder in folders]
    repeated = []
    for a, b in equal_structures([read_folder(folder) for _, folder in where_from]):
        (first, one), (second, other) = sorted(
            (where_from[a], where_from[b]), key=lambda w: where_from.index(w)
        )
        if first != second:
            raise ConfigError(
                f"{where}: the same structure is in two splits: {one} ({first}) and {other} "
                f"({second}); errors on such a split say nothing"
            )
        repeated.append(f"{one} and {other} ({first})")
    if repeated:
        LOGGER.info(
            "%s: the same structure is there twice, and counts twice: %s",
            where,
            "; ".join(repeated[:3]),
        )
    return splits
