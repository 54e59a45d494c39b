r"""Direct sum <-> direct product <-> Hamiltonian blocks (Eq. 7, DStoDP).

Spinless, one channel (l1, l2), in e3nn's order m = -l..l:

.. math::
    H_{m_1 m_2} = \sum_{l=|l_1-l_2|}^{l_1+l_2} \sum_m w_{3j}(l_1, l_2, l)_{m_1 m_2 m}\; h_{l m}

and back with :math:`(2l+1)\,w_{3j}`. With spin-orbit coupling the block is
:math:`(l_1 \otimes \tfrac12) \otimes (l_2 \otimes \tfrac12)`: the direct sum holds l1 ⊗ l2 for
the spin singlet and, for each of its irreps, the product with the spin triplet (y, z, x); real
parts first, then imaginary parts. The direct product is in the legacy orbital order, as on disk.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ModelError
from ..io.blocks import BlockMatrix
from ..io.dock import LEGACY_TO_E3NN
from .orbitals import Basis, TargetBlocks
from .rotation import spin_rotation, wigner_blocks
from .wigner import Generation, wigner_3j

__all__ = [
    "DirectSumToProduct",
    "BlockAssembly",
    "block_transform",
    "orbital_rotation",
    "rotate_blocks",
]

#: (4, 4): rows uu, ud, du, dd; columns singlet, then triplet in e3nn's order y, z, x (Pauli
#: matrices / sqrt 2).
SPIN_BASIS = (
    torch.tensor(
        [[1, 0, 1, 0], [0, -1j, 0, 1], [0, 1j, 0, 1], [1, 0, -1, 0]], dtype=torch.complex128
    )
    / 2**0.5
)


@functools.lru_cache(maxsize=512)
def block_transform(l1: int, l2: int, spinful: bool, generation: Generation) -> Tensor:
    """Matrix from the direct-sum vector of one channel to its direct-product vector.

    Args:
        l1: degree of the shell of i.
        l2: degree of the shell of j.
        spinful: with spin.
        generation: whose Wigner symbols.

    Returns:
        (d, d) float64 with d = (2 l1 + 1)(2 l2 + 1); spin-orbit (4 d, 4 d) complex128, rows (spin
        pair, legacy m1, legacy m2).
    """
    rows, columns = list(LEGACY_TO_E3NN[l1]), list(LEGACY_TO_E3NN[l2])
    back1, back2 = np.argsort(rows), np.argsort(columns)
    degrees = range(abs(l1 - l2), l1 + l2 + 1)
    coupling = torch.cat(
        [wigner_3j(l1, l2, l, generation) for l in degrees], dim=-1
    )  # (2l1+1, 2l2+1, d)
    coupling = coupling[torch.as_tensor(back1)][:, torch.as_tensor(back2)]
    d = coupling.shape[-1]
    if not spinful:
        return coupling.reshape(d, d)
    inner = torch.zeros(d, 4, 4 * d, dtype=torch.float64)  # singlet/triplet x direct sum
    inner[:, 0, :d] = torch.eye(d, dtype=torch.float64)
    row, column = 0, d
    for l in degrees:
        for k in range(abs(l - 1), l + 2):
            inner[row : row + 2 * l + 1, 1:, column : column + 2 * k + 1] = wigner_3j(
                l, 1, k, generation
            )
            column += 2 * k + 1
        row += 2 * l + 1
    full = torch.einsum(
        "mnx,klm,jn->jklx", inner.to(torch.complex128), coupling.to(torch.complex128), SPIN_BASIS
    )
    return full.reshape(4 * d, 4 * d)


class _Reordered(torch.autograd.Function):
    """Columns (last dimension) in another order.

    The gradient comes back by the inverse order, not by a scatter into zeros.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return value.index_select(-1, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(-1, ctx.saved_tensors[0]), None, None


class DirectSumToProduct(nn.Module):
    """DStoDP of Eq. 7 for all channels of a model, and its inverse."""

    def __init__(
        self, targets: TargetBlocks, generation: Generation, dtype: torch.dtype = torch.float32
    ) -> None:
        """
        Args:
            targets: the channels.
            generation: whose Wigner symbols.
            dtype: real type of the direct-sum vector.
        """
        super().__init__()
        self.targets, self.generation, self.spinful = targets, generation, targets.basis.spinful
        spins = 4 if self.spinful else 1
        kind = (
            dtype
            if not self.spinful
            else (torch.complex64 if dtype == torch.float32 else torch.complex128)
        )
        self.pairs = sorted(set(targets.degrees))
        starts = np.concatenate(
            [[0], np.cumsum([spins * (2 * a + 1) * (2 * b + 1) for a, b in targets.degrees])]
        )
        self.width_sum = int(starts[-1])
        self.sizes: list[int] = []  # elements of all channels of a pair of degrees, one spin pair
        sums, products = [], []
        for number, (l1, l2) in enumerate(self.pairs):
            d = (2 * l1 + 1) * (2 * l2 + 1)
            channels = [c for c, pair in enumerate(targets.degrees) if pair == (l1, l2)]
            transform = block_transform(l1, l2, self.spinful, generation)
            self.register_buffer(
                f"forward_{number}", transform.T.contiguous().to(kind), persistent=False
            )
            self.register_buffer(
                f"inverse_{number}",
                torch.linalg.inv(transform).T.contiguous().to(kind),
                persistent=False,
            )
            self.sizes.append(len(channels) * d)
            sums.append((starts[channels][:, None] + np.arange(spins * d)).reshape(-1))
            products.append(
                (np.array(targets.slices)[channels][:, None] + np.arange(d)).reshape(-1)
            )
        for name, index in (("sum", np.concatenate(sums)), ("product", np.concatenate(products))):
            self.register_buffer(
                f"{name}_order", torch.as_tensor(index), persistent=False
            )  # channels of equal degrees side by side
            self.register_buffer(
                f"{name}_place", torch.as_tensor(np.argsort(index)), persistent=False
            )

    def forward(self, direct_sum: Tensor) -> Tensor:
        """Direct sum to direct product.

        Args:
            direct_sum: (E, D), eV; with spin-orbit D counts real and imaginary parts.

        Returns:
            (E, K); spin-orbit (E, 4, K) complex; eV, legacy orbital order.
        """
        h = direct_sum
        if self.spinful:
            h = torch.complex(
                h[:, : self.width_sum].contiguous(), h[:, self.width_sum :].contiguous()
            )
        spins = 4 if self.spinful else 1
        h = _Reordered.apply(h, self.sum_order, self.sum_place)
        blocks = []
        for number, (part, (l1, l2)) in enumerate(
            zip(h.split([spins * size for size in self.sizes], dim=1), self.pairs, strict=True)
        ):
            d = (2 * l1 + 1) * (2 * l2 + 1)
            block = part.reshape(-1, spins * d) @ self.get_buffer(f"forward_{number}")
            blocks.append(
                block.reshape(len(h), -1, spins, d).transpose(1, 2).reshape(len(h), spins, -1)
            )
        out = _Reordered.apply(torch.cat(blocks, dim=2), self.product_place, self.product_order)
        return out if self.spinful else out[:, 0]

    def inverse(self, direct_product: Tensor) -> Tensor:
        """Direct product to direct sum: the exact inverse of :meth:`forward`; shapes exchanged."""
        h = direct_product if self.spinful else direct_product[:, None]
        spins = h.shape[1]
        h = _Reordered.apply(h, self.product_order, self.product_place)
        blocks = []
        for number, (part, (l1, l2)) in enumerate(
            zip(h.split(self.sizes, dim=2), self.pairs, strict=True)
        ):
            d = (2 * l1 + 1) * (2 * l2 + 1)
            block = part.reshape(len(h), spins, -1, d).transpose(1, 2).reshape(-1, spins * d)
            blocks.append((block @ self.get_buffer(f"inverse_{number}")).reshape(len(h), -1))
        out = _Reordered.apply(torch.cat(blocks, dim=1), self.sum_place, self.sum_order)
        return torch.cat([out.real, out.imag], dim=1) if self.spinful else out


class BlockAssembly:
    """Between the direct-product vectors of all edges and the blocks of a :class:`BlockMatrix`."""

    def __init__(self, targets: TargetBlocks) -> None:
        self.targets, self.basis = targets, targets.basis
        self._source = {
            (i, j): self._pair_source(i, j)
            for i in range(len(self.basis.elements))
            for j in range(len(self.basis.elements))
        }

    def _pair_source(self, i: int, j: int) -> NDArray[np.int64]:
        """For each element of the block of an (i, j) pair, where it stands in the (spin pair, K)
        vector; -1 = not predicted."""
        rows, columns = self.basis.counts(i), self.basis.counts(j)
        source = np.full((rows, columns), -1, dtype=np.int64)
        for channel, start in zip(self.targets.blocks, self.targets.slices[:-1], strict=True):
            if (i, j) not in channel:
                continue
            a, b = channel[i, j]
            la, lb = self.basis.orbital_types[i][a], self.basis.orbital_types[j][b]
            r, c = self.basis.offset(i, a), self.basis.offset(j, b)
            if (source[r : r + 2 * la + 1, c : c + 2 * lb + 1] >= 0).any():
                raise ModelError(
                    f"shells {a}, {b} of elements {self.basis.elements[i]}, "
                    f"{self.basis.elements[j]} are predicted by two output channels"
                )
            source[r : r + 2 * la + 1, c : c + 2 * lb + 1] = start + np.arange(
                (2 * la + 1) * (2 * lb + 1)
            ).reshape(2 * la + 1, 2 * lb + 1)
        if not self.basis.spinful:
            return source
        width = self.targets.width
        spin = [
            [np.where(source >= 0, source + (2 * s + t) * width, -1) for t in (0, 1)]
            for s in (0, 1)
        ]
        return np.block(spin)

    def source(self, i: int, j: int) -> NDArray[np.int64]:
        """Where the elements of a block stand in the flat (spin pair, K) vector; -1: not predicted.

        Args:
            i: element index of the rows' atom.
            j: of the columns'.

        Returns:
            (n_i, n_j), spin doubling included.
        """
        return self._source[i, j]

    def shapes(self, node_type: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """(E, 2), shape of each block, spin doubling included."""
        counts = np.array([self.basis.counts(n) for n in range(len(self.basis.elements))]) * (
            2 if self.basis.spinful else 1
        )
        return counts[node_type[keys[:, 3:]]]

    def _groups(
        self, node_type: NDArray[np.int64], keys: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        pair = node_type[keys[:, 3]] * len(self.basis.elements) + node_type[keys[:, 4]]
        return [
            (
                np.flatnonzero(pair == code),
                self._source[divmod(int(code), len(self.basis.elements))],
            )
            for code in np.unique(pair)
        ]

    def to_matrix(
        self,
        direct_product: NDArray[np.number],
        node_type: NDArray[np.int64],
        keys: NDArray[np.int64],
        missing: float = np.nan,
    ) -> BlockMatrix:
        """Vectors to blocks.

        Args:
            direct_product: (E, K) or (E, 4, K), eV.
            node_type: (N,) element indices.
            keys: (E, 5), 0-based, canonical order.
            missing: value of elements that no channel predicts.

        Returns:
            The Hamiltonian, same type as ``direct_product``.
        """
        flat = direct_product.reshape(len(keys), -1)
        shapes = self.shapes(node_type, keys)
        offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
        values = np.empty(offsets[-1], dtype=flat.dtype)
        groups = self._groups(node_type, keys)
        for index, source in groups:
            place = source.reshape(-1)
            block = np.take(flat if len(groups) == 1 else flat[index], place, axis=1)
            if (place < 0).any():
                block[:, place < 0] = missing
            if len(groups) == 1:  # blocks of one shape, in order
                values = block.reshape(-1)
            else:
                values[offsets[index][:, None] + np.arange(len(place))] = block
        return BlockMatrix(keys, shapes, values)

    def from_matrix(
        self, matrix: BlockMatrix, node_type: NDArray[np.int64]
    ) -> tuple[NDArray[np.number], NDArray[np.bool_]]:
        """Blocks to vectors.

        Returns:
            ``(direct_product, mask)``: (E, K) or (E, 4, K) each; the mask says which components the
            edge's pair of elements has.
        """
        spins = 4 if self.basis.spinful else 1
        flat = np.zeros((len(matrix), spins * self.targets.width), dtype=matrix.values.dtype)
        mask = np.zeros(flat.shape, dtype=bool)
        for index, source in self._groups(node_type, matrix.keys):
            place = source.reshape(-1)
            have = np.flatnonzero(place >= 0)
            flat[index[:, None], place[have]] = matrix.values[matrix.offsets[index][:, None] + have]
            mask[index[:, None], place[have]] = True
        shape = (
            (len(matrix), spins, self.targets.width)
            if self.basis.spinful
            else (len(matrix), self.targets.width)
        )
        return flat.reshape(shape), mask.reshape(shape)


def orbital_rotation(basis: Basis, element: int, rotation: Tensor) -> NDArray[np.number]:
    """How the orbitals of one element turn, in legacy order; with spin kron(D½, D).

    Args:
        basis: the shells.
        element: index into ``basis.elements``.
        rotation: (3, 3), Cartesian, orthogonal (an inversion gives (-1)^l; spin is even).

    Returns:
        (n, n) float64, with spin (2n, 2n) complex128: the matrix U of H' = U H U†.
    """
    improper = bool(torch.linalg.det(rotation.double()) < 0)
    proper = (-rotation if improper else rotation).double()
    turns = wigner_blocks(proper, 3)
    total = np.zeros((basis.counts(element),) * 2)
    for shell, l in enumerate(basis.orbital_types[element]):
        back = np.argsort(LEGACY_TO_E3NN[l])
        start = basis.offset(element, shell)
        total[start : start + 2 * l + 1, start : start + 2 * l + 1] = turns[l].numpy()[
            np.ix_(back, back)
        ] * ((-1) ** l if improper else 1)
    return np.kron(spin_rotation(proper).numpy(), total) if basis.spinful else total


def rotate_blocks(
    matrix: BlockMatrix, basis: Basis, node_type: NDArray[np.int64], rotation: Tensor
) -> BlockMatrix:
    """H(R) of the turned structure, exactly: every block becomes U_i H U_j†.

    Args:
        matrix: blocks in legacy order.
        basis: the shells.
        node_type: (N,), element indices.
        rotation: (3, 3), Cartesian, orthogonal.
    """
    turns = [orbital_rotation(basis, n, rotation) for n in range(len(basis.elements))]
    kinds = node_type[matrix.keys[:, 3:]]
    values = np.empty(
        len(matrix.values),
        dtype=np.result_type(matrix.values, turns[0].dtype)
        if basis.spinful
        else matrix.values.dtype,
    )
    for i, j in np.unique(kinds, axis=0):
        index = np.flatnonzero((kinds == (i, j)).all(axis=1))
        place = matrix.offsets[index][:, None] + np.arange(turns[i].shape[0] * turns[j].shape[0])
        block = matrix.values[place].reshape(-1, turns[i].shape[0], turns[j].shape[0])
        values[place] = (turns[i] @ block @ turns[j].conj().T).reshape(len(index), -1)
    return BlockMatrix(matrix.keys, matrix.shapes, values)
