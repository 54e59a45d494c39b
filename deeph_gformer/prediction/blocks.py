"""From direct products to blocks: averages, checks, and their order in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..algebra.orbitals import TargetBlocks
from ..data.symmetry import hermitian_mean, time_reversal_mean, transpose_index
from ..errors import ModelError
from ..io.blocks import BlockMatrix, reverse_keys, sort_keys
from ..runtime.communicator import Communicator
from .sharing import partners

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = [
    "BLOCK_CHUNK",
    "assemble",
    "check_finite",
    "hermitian_in_place",
    "make_hermitian",
    "sum_of_differences",
    "symmetrise",
]

#: Edges at a time where blocks are averaged, checked and put into their file order.
BLOCK_CHUNK = 16384
#: Elements at a time where matrices are compared.
_ELEMENTS = 2**20


def hermitian_in_place(
    vector: Tensor, partner: Tensor, index: Tensor, chunk: int = BLOCK_CHUNK
) -> None:
    """:func:`deeph_gformer.data.symmetry.hermitian_product`, in place and by pairs of edges.

    Args:
        vector: (E, K) or (E, 4, K), contiguous.
        partner: (E,), edge (-R, j, i) of each edge; those with -1 stay.
        index: see :func:`deeph_gformer.data.symmetry.transpose_index`.
        chunk: edges at a time.
    """
    flat = vector.view(len(vector), -1)
    for part in torch.nonzero(torch.arange(len(partner)) <= partner).reshape(-1).split(chunk):
        other = partner[part]
        a, b = flat[part], flat[other]
        flat[part], flat[other] = hermitian_mean(a, b, index), hermitian_mean(b, a, index)


def _hermitian_between(
    vector: Tensor,
    theirs: Sequence[Tensor],
    keys: NDArray[np.int64],
    index: Tensor,
    comm: Communicator,
) -> None:
    """:func:`hermitian_in_place` of edges whose partners other processes have.

    Args:
        vector: (E, K) or (E, 4, K), contiguous.
        theirs: see :func:`.sharing.partners`.
        keys: (E, 5).
        index: see :func:`deeph_gformer.data.symmetry.transpose_index`.
        comm: the processes.
    """
    flat = vector.view(len(vector), -1)
    # each sends in the order of the partners, which is the order in which they are wanted there
    sent = [flat[rows[torch.from_numpy(sort_keys(reverse_keys(keys[rows])))]] for rows in theirs]
    for rows, values in zip(theirs, comm.exchange(sent), strict=True):
        for part, value in zip(rows.split(BLOCK_CHUNK), values.split(BLOCK_CHUNK), strict=True):
            flat[part] = hermitian_mean(flat[part], value, index)


def check_finite(product: Tensor, name: str) -> None:
    """Refuse a prediction that is not finite, some edges at a time.

    Args:
        product: (E, K) or (E, 4, K).
        name: of the structure, for the message.

    Raises:
        ModelError: it has NaN or infinite numbers.
    """
    for part in product.split(BLOCK_CHUNK):
        if not torch.isfinite(torch.view_as_real(part) if part.is_complex() else part).all():
            raise ModelError(
                f"structure '{name}': the prediction is not finite; it lies far outside what "
                "the model was trained on, or the weights are damaged"
            )


def assemble(
    model: HamiltonianModel, product: Tensor, types: NDArray[np.int64], keys: NDArray[np.int64]
) -> BlockMatrix:
    """Direct-product vectors to blocks, some edges at a time.

    Args:
        model: gives the target blocks, and what stands where none predicts an element.
        product: (E, K) or (E, 4, K), eV.
        types: (N,), element index of each atom.
        keys: (E, 5), 0-based, canonical order.

    Raises:
        ModelError: an element of a block is predicted by no model.
    """
    fill = getattr(model.stage1, "fill_missing", None)
    shapes = model.blocks.shapes(types, keys)
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    vectors = product.numpy()
    values = np.empty(offsets[-1], dtype=vectors.dtype)
    for start in range(0, len(keys), BLOCK_CHUNK):
        stop = min(start + BLOCK_CHUNK, len(keys))
        part = model.blocks.to_matrix(
            vectors[start:stop], types, keys[start:stop], np.nan if fill is None else fill
        )
        values[offsets[start] : offsets[stop]] = part.values
        if not np.isfinite(part.values).all():
            raise ModelError(
                "the model does not predict every block; missing: "
                f"{'; '.join(model.targets.missing()[:4])}. "
                "Give the folder of all models, or --fill-missing 0"
            )
    return BlockMatrix(keys, shapes, values)


def sum_of_differences(first: BlockMatrix, both: BlockMatrix) -> tuple[float, int]:
    """Sum of |ΔH| over the elements that the blocks have, eV, and their number.

    Args:
        first: of stage 1, eV; elements that no channel predicts are the same number in both.
        both: of both stages, the same blocks; the same matrix without a GFormer.
    """
    total, size = 0.0, len(both.values)
    for start in range(0, size if first is not both else 0, _ELEMENTS):
        part = slice(start, start + _ELEMENTS)
        total += float(np.abs(both.values[part] - first.values[part]).sum(dtype=np.float64))
    return total, size


def make_hermitian(
    products: Sequence[Tensor], keys: NDArray[np.int64], targets: TargetBlocks, comm: Communicator
) -> None:
    """½(H_ij(R) + H_ji(-R)†) in place.

    Args:
        products: of this rank's edges; one that is there twice is averaged once.
        keys: (E, 5), of these edges, in canonical order.
        targets: of the model.
        comm: processes that share the structure.
    """
    partner, theirs = partners(comm, keys)
    index = transpose_index(targets)
    for product in {id(p): p for p in products}.values():
        if theirs:
            _hermitian_between(product, theirs, keys, index, comm)
        hermitian_in_place(product, partner, index)


def symmetrise(
    model: HamiltonianModel,
    first: Tensor | None,
    both: Tensor,
    keys: NDArray[np.int64],
    comm: Communicator,
) -> None:
    """What every prediction has, in place: it is Hermitian; the refined one has time reversal.

    The latter where the training data had it (:attr:`Bundle.time_reversal`); stage 1's H stays
    DeepH-E3's.

    Args:
        model: both stages.
        first: (E, K) or (E, 4, K), of stage 1, of this rank's edges; None: not wanted.
        both: of both stages; the same tensor without a GFormer.
        keys: (E, 5), of these edges, in canonical order.
        comm: processes that share the structure.
    """
    make_hermitian((both,) if first is None else (first, both), keys, model.targets, comm)
    if model.bundle is not None and model.bundle.time_reversal:
        for part in both.split(BLOCK_CHUNK):
            part.copy_(time_reversal_mean(part))
