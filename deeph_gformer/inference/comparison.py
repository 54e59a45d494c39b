"""How a prediction differs from stage 1: what ``refine`` says of each structure."""

from __future__ import annotations

import pathlib

import numpy as np
import torch

from ..bands.loading import hermitian_defect
from ..data.gauge import common_blocks, gauge_products, spin_double, subtract_overlap
from ..io import BlockMatrix
from ..io.blocks import format_key
from ..io.folder import folder_format, has_matrix, read_matrix
from ..logs import LOGGER
from ..pipeline import Prediction
from ..runtime.communicator import Communicator

__all__ = ["LARGE", "joined", "mean_correction", "stored_overlap", "warn_asymmetric"]


#: Edges from which on a structure gets a progress bar of its own.
LARGE = 20_000


def stored_overlap(
    folder: pathlib.Path, target: pathlib.Path, prediction: Prediction
) -> BlockMatrix | None:
    """S of a structure, where it is there.

    Args:
        folder: of the structure, or its file.
        target: folder of the prediction, which is looked at second.
        prediction: gives the structure.
    """
    for place in (folder, target):
        if place.is_dir() and folder_format(place) is not None:
            if has_matrix(place, "overlap"):
                return read_matrix(place, "overlap", prediction.structure)
    return None


#: Largest |S - S†| of files in single precision.
_ASYMMETRY = 1e-4


def warn_asymmetric(overlap: BlockMatrix | None, folder: pathlib.Path) -> None:
    """Say where S is not Hermitian: errors without μS and the Fermi level come from it.

    Args:
        overlap: S of a structure, or of the edges of one process.
        folder: for the message.
    """
    if overlap is None or (overlap.partner < 0).any():
        return
    defect, block = hermitian_defect(overlap)
    if defect > _ASYMMETRY:
        LOGGER.warning(
            "%s: S is not Hermitian, |S - S†| reaches %.3g in block %s; is the file damaged? "
            "Errors without μS and the Fermi level come from it",
            folder,
            defect,
            format_key(overlap.keys[block]),
        )


def mean_correction(
    prediction: Prediction, overlap: BlockMatrix | None, comm: Communicator
) -> float:
    """Mean |ΔH| over the elements of all blocks, without the part that is a shift of energy, eV.

    Args:
        prediction: of both stages, the blocks of this process.
        overlap: S of these blocks, spinless; None: the shift stays.
        comm: processes that share the structure.
    """
    if prediction.hamiltonian is prediction.stage1:
        return 0.0
    if overlap is None:
        return prediction.correction
    change = BlockMatrix(
        prediction.hamiltonian.keys,
        prediction.hamiltonian.shapes,
        prediction.hamiltonian.values - prediction.stage1.values,
    )
    spinful = bool(prediction.structure.spinful)
    overlap = common_blocks(overlap, change)
    parts = comm.objects(gauge_products(change, overlap, spinful))
    total, norm = np.sum(parts, axis=0)
    doubled = spin_double(overlap) if spinful else overlap
    change = subtract_overlap(change, doubled, total / norm if norm else 0.0)
    sums = comm.objects((float(np.abs(change.values).sum()), len(change.values)))
    total, count = np.sum(sums, axis=0)
    return float(total / max(count, 1))


def joined(prediction: Prediction, comm: Communicator) -> tuple[BlockMatrix, BlockMatrix] | None:
    """Stage 1's and the refined Hamiltonian of all edges; None on all ranks but the first."""
    if comm.size == 1:
        return prediction.stage1, prediction.hamiltonian
    parts = [
        comm.to_first(torch.from_numpy(part), sum(comm.objects(len(part))))
        for part in (
            prediction.edges.keys,
            prediction.hamiltonian.shapes,
            prediction.stage1.values,
            prediction.hamiltonian.values,
        )
    ]
    if comm.rank:
        return None
    keys, shapes, first, both = (part.numpy() for part in parts if part is not None)
    return BlockMatrix(keys, shapes, first), BlockMatrix(keys, shapes, both)
