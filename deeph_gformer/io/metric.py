"""What every S is: a metric of orbitals whose norms are near one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .blocks import BlockMatrix, format_key, onsite_keys

__all__ = ["require_metric"]

#: Norms of orbitals, S_ii. Codes write 1; PAW and unnormalised ones of OpenMX have 0.98 to 1.02.
_LEAST, _MOST = 0.1, 10.0
#: Of S_ij / √(S_ii S_jj): rounding in single precision, and the least part that orbitals of one
#: atom leave each other. That part is 0.6 and more for numerical orbitals.
_ROUNDING, _APART = 1e-6, 1e-8
_ELEMENTS = 1_000_000  # at a time


def require_metric(overlap: BlockMatrix, counts: NDArray[np.int64], where: str) -> None:
    """Raise unless S can be that of orbitals: norms are near 1, no two orbitals are one, and those
    of an atom are independent.

    Args:
        overlap: S, real, spinless.
        counts: (N,), orbitals of each atom.
        where: file, for the message.

    Raises:
        DataError: names the block.
    """
    start = np.concatenate([[0], np.cumsum(counts)])
    norm, keys = np.full(start[-1], np.inf), overlap.keys  # inf: atoms without an on-site block
    itself = onsite_keys(keys)
    for index, blocks in overlap.select(np.flatnonzero(itself)).groups() if itself.any() else ():
        mine = keys[itself][index]
        size = np.diagonal(blocks, axis1=1, axis2=2).real
        wrong = ~((size >= _LEAST) & (size <= _MOST)).all(axis=1)
        _refuse(
            mine[wrong],
            where,
            f"on its diagonal, norms of orbitals, are {_LEAST:g} to {_MOST:g}",
        )
        root = np.sqrt(size)
        scaled = blocks / (root[:, :, None] * root[:, None, :])
        least = np.linalg.eigvalsh((scaled + scaled.swapaxes(1, 2)) / 2)[:, 0]
        _refuse(mine[least < _APART], where, "orbitals of one atom are independent")
        norm[start[mine[:, 3]][:, None] + np.arange(size.shape[1])] = root
    for index, blocks in overlap.groups() if len(overlap) else ():
        step = max(1, _ELEMENTS // max(1, blocks[0].size))
        for begin in range(0, len(index), step):
            part, some = index[begin : begin + step], blocks[begin : begin + step]
            i, j = (
                norm[start[keys[part, side]][:, None] + np.arange(some.shape[side - 2])]
                for side in (3, 4)
            )
            far = np.abs(some) > (1 - _ROUNDING) * i[:, :, None] * j[:, None, :]
            far[itself[part]] = False
            _refuse(
                keys[part[far.any(axis=(1, 2))]],
                where,
                "each is less than the root of the two orbitals' own",
            )


def _refuse(keys: NDArray[np.int64], where: str, rule: str) -> None:
    """Raise if there are keys (n, 5) of blocks that break a rule.

    Raises:
        DataError: names the first.
    """
    if len(keys):
        raise DataError(
            f"{where}: block {format_key(keys[0])} of S has elements that are no overlaps: {rule}; "
            "the file is damaged, is read in a wrong way, or is no S"
        )
