"""A block-sparse matrix H(R) or S(R) in memory: keys, shapes and one flat array."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = [
    "MAX_CELL",
    "MAX_VALUE",
    "BlockMatrix",
    "format_key",
    "match_keys",
    "onsite_keys",
    "require_keys",
    "require_onsite",
    "reverse_keys",
    "sort_keys",
]

#: Lattice vectors R of blocks, in cells; and largest |H| in eV or |S|: beyond is no physics.
MAX_CELL, MAX_VALUE = 1000, 1e7


def format_key(key: Iterable[int]) -> str:
    """The legacy dataset name of a 0-based key: ``[Rx, Ry, Rz, i, j]`` with i and j 1-based."""
    x, y, z, i, j = (int(v) for v in key)
    return f"[{x}, {y}, {z}, {i + 1}, {j + 1}]"


def sort_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices that put keys in canonical order: by i, then j, then R (an atom's edges together)."""
    if len(keys):
        low = [int(column.min()) for column in keys.T]
        span = [int(column.max()) - least + 1 for column, least in zip(keys.T, low, strict=True)]
        if math.prod(span) < 2**62:  # one number per key
            code = np.zeros(len(keys), dtype=np.int64)
            for column in (3, 4, 0, 1, 2):
                code *= span[column]
                code += keys[:, column] - low[column]
            return np.argsort(code, kind="stable")
    return np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0], keys[:, 4], keys[:, 3]))


def _codes(*key_sets: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """One integer per key, the same for equal keys over all sets."""
    everything = np.concatenate([np.asarray(k, dtype=np.int64).reshape(-1, 5) for k in key_sets])
    if not len(everything):
        return [np.zeros(0, dtype=np.int64) for _ in key_sets]
    low = everything.min(axis=0)
    span = everything.max(axis=0) - low + 1
    if np.prod(span.astype(float)) < 2**62:
        code = np.zeros(len(everything), dtype=np.int64)
        for column in range(5):
            code = code * span[column] + everything[:, column] - low[column]
    else:
        code = np.unique(everything, axis=0, return_inverse=True)[1].reshape(-1)
    return np.split(code, np.cumsum([len(k) for k in key_sets])[:-1])


def match_keys(wanted: NDArray[np.int64], present: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted key stands among the present ones.

    Args:
        wanted: (E, 5).
        present: (F, 5).

    Returns:
        (E,), index into ``present``, -1 where a key is absent.
    """
    a, b = _codes(wanted, present)
    if not len(b):
        return np.full(len(a), -1, dtype=np.int64)
    order = np.argsort(b, kind="stable")
    place = np.minimum(np.searchsorted(b, a, sorter=order), len(b) - 1)
    found = order[place]
    return np.where(b[found] == a, found, -1)


def require_keys(
    keys: NDArray[np.int64], atoms: int, where: str, first: int = 0, what: str = "block"
) -> None:
    """Raise unless keys are of this structure, in a sane range, and each is there once.

    Args:
        keys: (E, 5), 0-based.
        atoms: how many there are.
        where: file, for the message.
        first: number of the first atom in the file, for the message.
        what: what a key names, for the message.

    Raises:
        DataError: an atom does not exist, a lattice vector is beyond :data:`MAX_CELL`, or a key is
            there twice.
    """
    bad = np.flatnonzero((keys[:, 3:] < 0).any(axis=1) | (keys[:, 3:] >= atoms).any(axis=1))
    if len(bad):
        key = (keys[bad[0]] + [0, 0, 0, first, first]).tolist()
        raise DataError(
            f"{where}: {what} {key} names an atom outside {first}..{atoms - 1 + first}, the "
            "atoms of this structure; is the file that of another one?"
        )
    # not abs: -2^63 is its own negative
    bad = np.flatnonzero(
        (keys[:, :3] < -MAX_CELL).any(axis=1) | (keys[:, :3] > MAX_CELL).any(axis=1)
    )
    if len(bad):
        raise DataError(
            f"{where}: {what} {format_key(keys[bad[0]])} lies {keys[bad[0], :3].tolist()} cells "
            f"away; at most {MAX_CELL} are supported"
        )
    ordered = keys[sort_keys(keys)]
    same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    if len(same):
        raise DataError(f"{where}: {what} {format_key(ordered[same[0]])} is there twice; leave one")


def reverse_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The key (-R, j, i) of each (R, i, j)."""
    return np.concatenate([-keys[:, :3], keys[:, 4:5], keys[:, 3:4]], axis=1)


def onsite_keys(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(E,), which of the blocks (E, 5) are of an atom with itself: i = j and R = 0."""
    return (keys[:, 3] == keys[:, 4]) & ~keys[:, :3].any(axis=1)


def require_onsite(keys: NDArray[np.int64], atoms: Iterable[int], where: str) -> None:
    """Raise unless each atom has a block with itself.

    Args:
        keys: (E, 5).
        atoms: 0-based.
        where: file or structure, for the message.

    Raises:
        DataError: one has none.
    """
    missing = sorted(set(atoms) - set(keys[onsite_keys(keys), 3].tolist()))
    if missing:
        raise DataError(
            f"{where}: atom {missing[0] + 1} has no on-site block "
            f"{format_key((0, 0, 0, missing[0], missing[0]))}; every atom needs its own: make the "
            "file of blocks again"
        )


@dataclasses.dataclass(frozen=True)
class BlockMatrix:
    """H(R) or S(R): blocks ``<i, home cell | . | j, cell R>``, orbitals of i by orbitals of j.

    Attributes:
        keys: (E, 5) int64, Rx Ry Rz i j, i and j 0-based, in canonical order (see
            :func:`sort_keys`).
        shapes: (E, 2) int64, rows and columns of each block (spin doubling included).
        values: flat, the blocks row-major one after the other; eV for H, 1 for S; float or complex.
    """

    keys: NDArray[np.int64]
    shapes: NDArray[np.int64]
    values: NDArray[np.number]

    def __post_init__(self) -> None:
        if self.keys.shape != (len(self.shapes), 5) or len(self.values) != self.offsets[-1]:
            raise DataError(
                f"block matrix: {self.keys.shape} keys, {self.shapes.shape} shapes and "
                f"{len(self.values)} values do not fit together"
            )

    @classmethod
    def from_blocks(
        cls, keys: NDArray[np.int64], blocks: Iterable[NDArray[np.number]]
    ) -> BlockMatrix:
        """Build from keys (E, 5) and one 2-d array per key, in any order."""
        keys = np.asarray(keys, dtype=np.int64).reshape(-1, 5)
        blocks = list(blocks)
        order = sort_keys(keys)
        shapes = np.array([blocks[e].shape for e in order], dtype=np.int64).reshape(-1, 2)
        values = np.concatenate([np.ravel(blocks[e]) for e in order]) if blocks else np.zeros(0)
        return cls(keys[order], shapes, values)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"BlockMatrix({len(self)} blocks, {len(self.values)} values, {self.values.dtype})"

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], NDArray[np.number]]]:
        for e, key in enumerate(self.keys.tolist()):
            yield tuple(key), self.block(e)

    @functools.cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(E + 1,), start of each block in ``values``."""
        return np.concatenate([[0], np.cumsum(self.shapes[:, 0] * self.shapes[:, 1])]).astype(
            np.int64
        )

    @functools.cached_property
    def uniform(self) -> bool:
        """Whether all blocks have one shape, so that ``values`` is one array (E, rows, columns)."""
        return len(self) > 0 and bool(
            self.shapes[0].all() and (self.shapes == self.shapes[0]).all()
        )

    @functools.cached_property
    def partner(self) -> NDArray[np.int64]:
        """(E,), index of the block (-R, j, i) of each (R, i, j), -1 where there is none."""
        return match_keys(reverse_keys(self.keys), self.keys)

    def block(self, e: int) -> NDArray[np.number]:
        """Block number ``e``, a (rows, columns) view."""
        return self.values[self.offsets[e] : self.offsets[e + 1]].reshape(self.shapes[e])

    def groups(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.number]]]:
        """Blocks of equal shape together, without a loop over blocks in Python.

        Yields:
            Indices (n,), and an array (n, rows, columns) that is not to be written to.
        """
        if self.uniform:
            yield np.arange(len(self)), self.values.reshape(-1, *self.shapes[0])
            return
        kinds, which = np.unique(self.shapes, axis=0, return_inverse=True)
        which = which.reshape(-1)
        for kind, (rows, columns) in enumerate(kinds):
            index = np.flatnonzero(which == kind)
            place = self.offsets[index][:, None] + np.arange(rows * columns)
            yield index, self.values[place].reshape(-1, rows, columns)

    def largest(self) -> NDArray[np.float64]:
        """(E,), largest absolute element of each block."""
        result = np.zeros(len(self))
        for index, blocks in self.groups() if len(self) else ():
            result[index] = np.abs(blocks).max(axis=(1, 2), initial=0.0)
        return result

    def with_groups(
        self, groups: Iterable[tuple[NDArray[np.int64], NDArray[np.number]]]
    ) -> BlockMatrix:
        """The same keys with the values of ``groups`` (as :meth:`groups` yields them)."""
        values = np.zeros(len(self.values), dtype=self.values.dtype)
        for index, array in groups:
            if self.uniform:
                values.reshape(-1, *self.shapes[0])[index] = array
                continue
            place = self.offsets[index][:, None] + np.arange(array.shape[1] * array.shape[2])
            values[place] = array.reshape(len(index), -1)
        return dataclasses.replace(self, values=values)

    def astype(self, dtype: np.dtype | type) -> BlockMatrix:
        """The same blocks in another floating type."""
        return (
            self
            if self.values.dtype == dtype
            else dataclasses.replace(self, values=self.values.astype(dtype))
        )

    def select(self, index: NDArray[np.int64]) -> BlockMatrix:
        """The blocks of ``index`` (n,), put into canonical order."""
        index = np.asarray(index, dtype=np.int64)
        index = index[sort_keys(self.keys[index])]
        if len(index) == len(self) and (index == np.arange(len(self))).all():
            return self
        if self.uniform:
            return BlockMatrix(
                self.keys[index],
                self.shapes[index],
                self.values.reshape(len(self), -1)[index].reshape(-1),
            )
        lengths = self.offsets[index + 1] - self.offsets[index]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        place = (
            np.arange(starts[-1])
            - np.repeat(starts[:-1], lengths)
            + np.repeat(self.offsets[index], lengths)
        )
        return BlockMatrix(self.keys[index], self.shapes[index], self.values[place])

    def conjugate_transpose(self) -> BlockMatrix:
        """H(-R)_ji† under the key (R, i, j): equal to the matrix itself where it is Hermitian.

        Raises:
            DataError: a block has no partner (-R, j, i).
        """
        self.require_symmetric("block matrix")
        position = np.empty(len(self), dtype=np.int64)
        groups = []
        for index, array in self.groups():
            position[index] = np.arange(len(index))
            groups.append((index, array))
        by_shape = {array.shape[1:]: array for _, array in groups}
        return self.with_groups(
            (
                index,
                by_shape[array.shape[2], array.shape[1]][position[self.partner[index]]]
                .swapaxes(1, 2)
                .conj(),
            )
            for index, array in groups
        )

    def hermitian(self) -> BlockMatrix:
        """½(H + H†): the projection on Hermitian matrices. H† as in :meth:`conjugate_transpose`."""
        return dataclasses.replace(
            self, values=(self.values + self.conjugate_transpose().values) / 2
        )

    def require_numbers(self, where: str) -> None:
        """Raise unless all values are finite and of a size that energies and overlaps have.

        Args:
            where: file, for the message.

        Raises:
            DataError: names the first block that has others.
        """
        size = np.abs(self.values)
        bad = np.flatnonzero(~(size <= MAX_VALUE))
        if len(bad):
            e = int(np.searchsorted(self.offsets, bad[0], side="right")) - 1
            value = size[bad[0]]
            found = f"a value of size {value:.3g}, beyond {MAX_VALUE:g} eV"
            raise DataError(
                f"{where}: block {format_key(self.keys[e])} contains "
                f"{found if np.isfinite(value) else 'NaN or infinite values'} ({len(bad)} such "
                "values in the file)"
            )

    def require_symmetric(self, where: str) -> None:
        """Raise unless every (R, i, j) has its (-R, j, i).

        Raises:
            DataError: names ``where`` and the first key without partner.
        """
        lonely = np.flatnonzero(self.partner < 0)
        if len(lonely):
            key = self.keys[lonely[0]]
            raise DataError(
                f"{where}: asymmetric edge set, block {format_key(key)} has no partner "
                f"{format_key(reverse_keys(key[None])[0])} "
                f"({len(lonely)} such blocks); H(R)_ij = H(-R)_ji† needs both"
            )
