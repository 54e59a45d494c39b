"""``deeph-gformer onsite``: a finished bundle gets a linear model of on-site levels."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.states import dft_states, state_errors
from ..bands.bloch import BlochProblem
from ..bands.compare import compare
from ..bands.loading import load
from ..data.edges import LearnedEdges, select_edges
from ..data.splits import read_splits
from ..errors import ConfigError, DataError, GFormerError
from ..fields import OVERLAP_TABLE
from ..gformer.bundle import BUNDLE_FILE, save_bundle
from ..io.blocks import BlockMatrix, match_keys, require_onsite
from ..io.folder import matrix_path, read_folder, read_matrix, replaced_folder
from ..io.periodicity import piece_of
from ..io.structure import Structure
from ..onsite import Fit, Known, LevelModel, fit_levels, shell_levels, with_share
from ..onsite.levels import centred
from ..pipeline import HamiltonianModel
from ..prediction.levels import corrected, prepare
from ..results import LevelFit

__all__ = ["add_levels"]

#: The linear model is kept where the product of both errors falls by more (geometric mean).
GAIN = 0.1


def add_levels(
    model: HamiltonianModel,
    preprocessed: str | os.PathLike[str],
    splits: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overwrite: bool = False,
) -> LevelFit:
    """Fit a linear model of the training structures' on-site levels, and write the bundle with it
    where errors on validation fall by more than :data:`GAIN`.

    Args:
        model: both stages; levels that its bundle has already are left out.
        preprocessed: folder with the structures of the training, with DFT's H and S.
        splits: of the training.
        output: folder of the new bundle; not written where nothing is gained.
        overwrite: replace a folder that is there.

    Raises:
        ConfigError: there is no bundle, a split is empty, or the output lies where it must not.
        DataError: a structure lacks files, there are too few of them, or the output is there
            already.
        ModelError: a structure does not fit the model.
    """
    bundle = model.without_levels().bundle
    if bundle is None or bundle.path is None:
        raise ConfigError("levels belong to a GFormer: give its bundle (--model)")
    output = pathlib.Path(output)

    def check() -> None:
        if output.exists() and not overwrite:
            raise DataError(f"{output}: is there already; add --overwrite, or another --output")

    check()
    for place in (bundle.path, pathlib.Path(preprocessed)):
        if place.resolve() in output.resolve().parents:
            raise ConfigError(f"--output {output}: lies inside {place}; choose another place")
    if output.is_dir() and any(output.iterdir()) and not (output / BUNDLE_FILE).is_file():
        raise ConfigError(f"--output {output}: holds something else than a bundle")
    folders = read_splits(splits, preprocessed)
    plain = model.without_levels()
    spinful = model.targets.basis.spinful
    learned = model.learned_edges
    truth = [_truth(folder) for folder in folders["val"]]
    fit = fit_levels([_labelled(folder, spinful, learned) for folder in folders["train"]])
    items = [plain.read(folder) for folder in folders["val"]]
    prepared = [prepare(plain, item, fit.model) for item in items]
    before = [next(iter(plain.predict_graphs([item]))).hamiltonian for item in items]
    known = [
        Known(item.structure, dft.h, h, s)
        for item, (dft, s), h in zip(items, truth, before, strict=True)
    ]
    levels = with_share(fit.model, known, spinful)
    after = [
        corrected(plain, item, levels, ready, h)[0]
        for item, ready, h in zip(items, prepared, before, strict=True)
    ]
    errors = [_errors(dft, both) for (dft, _), *both in zip(truth, before, after, strict=True)]
    mae = _mean([e[0] for e in errors])
    known_states = [e[1] for e in errors if e[1] is not None]
    states = _mean(known_states) if known_states else None
    kept = _change(mae, states) <= 1 - GAIN
    if kept:
        record = {"mae_meV": mae, "states_error_meV": states}
        training = bundle.training | {"levels": levels.to_json(), "levels_validation": record}
        table = bundle.path / OVERLAP_TABLE
        with replaced_folder(output, check) as made:
            if table.is_file():
                shutil.copyfile(table, made / OVERLAP_TABLE)
            save_bundle(made, dataclasses.replace(bundle, training=training))
    return LevelFit(
        kept=kept,
        bundle=str(output) if kept else None,
        structures={name: len(several) for name, several in folders.items()},
        val_mae_meV=mae,
        val_states_meV=states,
        shells=_shells(fit, levels, known, after),
        between_atoms=levels.between.tolist(),
        radial_functions=levels.radial.number,
        cutoff_angstrom=levels.radial.cutoff,
    )


def _change(mae: list[float], states: list[float] | None) -> float:
    """Geometric mean of both errors, after over before."""
    factor = mae[1] / max(mae[0], 1e-12)
    if states is None:
        return factor
    return math.sqrt(factor * states[1] / max(states[0], 1e-12))


def _shells(
    fit: Fit, levels: LevelModel, known: Sequence[Known], after: Sequence[BlockMatrix]
) -> list[dict[str, Any]]:
    """See :attr:`.LevelFit.shells`."""
    before = _level_errors(levels, [(k.structure, k.truth, k.made) for k in known])
    now = _level_errors(
        levels, [(k.structure, k.truth, h) for k, h in zip(known, after, strict=True)]
    )
    rows = zip(levels.kinds, fit.spread, fit.left_out, before, now, levels.share, strict=True)
    return [
        {
            "l": l,
            "number": number,
            "spread_meV": float(spread) * 1e3,
            "left_out_meV": float(error) * 1e3,
            "val_meV": [float(old) * 1e3, float(new) * 1e3],
            "share": float(share),
        }
        for (l, number), spread, error, old, new, share in rows
    ]


def _level_errors(
    levels: LevelModel, pairs: Sequence[tuple[Structure, BlockMatrix, BlockMatrix]]
) -> NDArray[np.float64]:
    """(K,), rms errors of a matrix's levels against those of another one, eV."""
    squares, count = np.zeros(len(levels.kinds)), np.zeros(len(levels.kinds))
    for structure, truth, made in pairs:
        dft, other = (shell_levels(structure, h, levels.kinds) for h in (truth, made))
        there = np.isfinite(dft)
        near = np.linalg.norm(structure.edge_vectors(truth.keys), axis=1) < levels.radial.cutoff
        piece = piece_of(truth.keys[near], len(structure))
        squares += (centred(dft - other, there, piece) ** 2).sum(axis=0)
        count += there.sum(axis=0)
    return np.sqrt(squares / np.maximum(count, 1))


def _labelled(
    folder: pathlib.Path, spinful: bool, learned: LearnedEdges
) -> tuple[Structure, BlockMatrix]:
    """Atoms and DFT's H of a folder, on the edges that a prediction of it has.

    Raises:
        DataError: a file is missing or damaged, or an atom has no on-site block.
    """
    structure = read_folder(folder)
    hamiltonian = read_matrix(folder, "hamiltonian", structure, spinful)
    edges = select_edges(folder, structure, "auto", learned=learned).keys
    index = match_keys(edges, hamiltonian.keys)
    found = hamiltonian.select(index[index >= 0])
    require_onsite(found.keys, range(len(structure)), f"{folder}, H and S")
    return structure, found


def _truth(folder: pathlib.Path) -> tuple[BlochProblem, BlockMatrix]:
    """DFT's H and S of a folder, and S again.

    Raises:
        DataError: a file is missing or damaged, or an atom has no on-site block.
    """
    dft = load(folder)
    if dft.s is None:
        raise DataError(
            f"{matrix_path(folder, 'overlap')}: file not found; on-site levels need S, also where "
            "info.json says that the basis is orthogonal"
        )
    for name, matrix in (("H", dft.h), ("S", dft.s)):
        require_onsite(matrix.keys, range(len(dft.structure)), f"{folder}, {name}")
    return dft, dft.s


def _errors(
    dft: BlochProblem, made: Sequence[BlockMatrix]
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Errors of H and of states of two matrices, meV; None where states are not known."""
    first, second = (compare(dft.h, h, dft.s).mae_meV for h in made)
    try:
        states = dft_states(dft)
        a, b = (state_errors(states, h).error_meV for h in made)
    except GFormerError:  # no Fermi level, or S is not positive definite
        return (first, second), None
    return (first, second), (a, b)


def _mean(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
