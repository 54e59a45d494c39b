"""Symmetries of H on direct-product vectors: H = H†, and time reversal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..algebra.orbitals import TargetBlocks
from ..io.spin import time_reversed

__all__ = ["hermitian_mean", "hermitian_product", "time_reversal_mean", "transpose_index"]


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
