"""∂H/∂τ and ∂S/∂τ of atoms in DeepH's block form: the input of electron-phonon coupling."""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from .. import fields as names
from ..data.edges import EdgeMode
from ..errors import ConfigError, DataError
from ..io.blocks import BlockMatrix
from ..io.files import write_json
from ..io.folder import folder_format, has_matrix, read_matrix, replaced_folder
from ..io.formats import derivative_file, get_format
from ..io.gauge import OURS
from ..io.structure import Structure
from ..overlap import OverlapProvider, TableOverlap
from ..overlap.gradient import overlap_gradient
from ..overlap.neighbours import find_edges, pair_cutoff
from ..pipeline import HamiltonianModel
from ..prediction.checks import check_item, warn_of
from ..prediction.derivatives import hamiltonian_derivative
from ..prediction.levels import prepare, shifts_of, slopes_of
from ..prediction.reading import OverlapSource, open_overlap
from ..prediction.seen import bundle_overlap
from ..runtime.timer import Timer
from .source import read_source

__all__ = ["Derivative", "derivatives", "parse_atoms", "read_derivative", "write_derivative"]

AXES = ("x", "y", "z")
#: Å: blocks whose atoms are this close to where they end are counted.
NEAR_END = 0.02
#: S of the folder and S of the table that is differentiated may differ by this.
SAME_OVERLAP = 1e-3
#: ∂/∂x, ∂/∂y, ∂/∂z.
Three = tuple[BlockMatrix, BlockMatrix, BlockMatrix]


class Derivative(NamedTuple):
    """What moving one atom, with all its periodic images, does.

    Attributes:
        structure: with the model's spin.
        atom: 0-based.
        hamiltonian: ∂H/∂x, ∂H/∂y and ∂H/∂z, eV/Å, legacy orbital order.
        overlap: the same of S, 1/Å; None where S has no derivative.
        near_end: blocks whose two atoms are closer than 0.02 Å to the distance where blocks end, on
            either side; None where that distance is not known.
        seconds: for H.
    """

    structure: Structure
    atom: int
    hamiltonian: Three
    overlap: Three | None
    near_end: int | None
    seconds: float


def parse_atoms(words: Sequence[str], count: int) -> list[int]:
    """Atoms, 0-based, of ``3``, ``1-4``, ``1,5`` and ``all``.

    Args:
        words: as a user writes them, 1-based.
        count: atoms of the structure.

    Raises:
        ConfigError: it is none of these, or there is no such atom.
    """
    chosen: list[int] = []
    for word in (part for text in words for part in text.split(",") if part):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if word == "all":
            chosen += range(count)
        elif match is None:
            raise ConfigError(f"--atom {word}: write a number, a range (1-4) or all")
        else:
            first, last = int(match[1]), int(match[2] or match[1])
            if not 1 <= first <= last <= count:
                raise ConfigError(f"--atom {word}: the structure has atoms 1 to {count}")
            chosen += range(first - 1, last)
    return list(dict.fromkeys(chosen))


def _near_end(
    structure: Structure, keys: NDArray[np.int64], provider: OverlapProvider | None, atom: int
) -> int | None:
    """See :attr:`Derivative.near_end`; of the blocks that move."""
    if provider is None:
        return None
    wider = {pair: value + NEAR_END for pair, value in provider.cutoffs.items()}
    every = find_edges(structure.lattice, structure.positions, structure.numbers, wider)
    every = every[(every[:, 3] == atom) != (every[:, 4] == atom)]
    ends = np.array(
        [pair_cutoff(provider.cutoffs, *structure.numbers[key[3:]].tolist()) for key in every]
    )
    distance = np.linalg.norm(structure.edge_vectors(every), axis=1)
    return int((np.abs(distance - ends) < NEAR_END).sum()) if len(every) else 0


def derivatives(
    source: str | os.PathLike[str],
    model: HamiltonianModel,
    atoms: Sequence[int],
    overlap: OverlapSource | None = None,
    edges: EdgeMode = "auto",
    hermitian: bool = True,
) -> Iterator[Derivative]:
    """Derivatives of one structure's H and S by the positions of atoms.

    Blocks are those of the structure, and stay: what enters or leaves while an atom moves is not in
    the derivative.

    Args:
        source: a structure folder, or a file that ASE reads.
        model: both stages, best in float64 (``load(..., dtype="float64")``).
        atoms: 0-based.
        overlap: see :func:`deeph_gformer.refine`; a table or basis files give ∂S/∂τ (default: the
            table in the bundle).
        edges: which blocks are edges.
        hermitian: of ½(H + H†).

    Raises:
        DataError: the structure cannot be read, or its S is not that of the table.
        ModelError: the model has no derivative.
        ConfigError: there is no such atom.
    """
    source = pathlib.Path(source)
    given = open_overlap(overlap, model)
    item = read_source(source, model, edges, given, None, Timer())
    structure, choice = item.structure, item.edges
    warn_of(structure.name, check_item(model, item, any_basis=True).remarks)
    provider = given or item.overlap or bundle_overlap(model)
    slopes = None
    if isinstance(provider, TableOverlap):
        _require_same(source, structure, provider)
        slopes = overlap_gradient(provider.table, structure, choice.keys)
    levels = None if model.bundle is None else model.bundle.levels
    if levels is not None:
        if slopes is None:
            raise ConfigError(
                f"{source}: this model shifts on-site levels by S, so ∂H/∂τ needs ∂S/∂τ, and no "
                "table knows it: give basis files (--overlap)"
            )
        prepared = prepare(model, item, levels)
        if prepared is None:
            levels = None
        else:
            plain = model.without_levels()
            made = next(iter(plain.predict_graphs([item], None, hermitian))).hamiltonian
            shifts = shifts_of(item, levels, prepared, made)
    for atom in atoms:
        start = time.perf_counter()
        hamiltonian = hamiltonian_derivative(model, item, atom, hermitian)
        moved = None
        if slopes is not None:
            sign = (choice.keys[:, 4] == atom).astype(float) - (choice.keys[:, 3] == atom)
            x, y, z = (
                BlockMatrix(s.keys, s.shapes, s.values * np.repeat(sign, np.diff(s.offsets)))
                for s in slopes
            )
            moved = (x, y, z)
        if levels is not None and prepared is not None and moved is not None:
            hamiltonian = slopes_of(
                model, item, levels, shifts, atom, hamiltonian, prepared.overlap, moved
            )
        seconds = time.perf_counter() - start
        table = provider if isinstance(provider, TableOverlap) else None
        near = _near_end(structure, choice.keys, table, atom)
        yield Derivative(structure, atom, hamiltonian, moved, near, seconds)


def _require_same(source: pathlib.Path, structure: Structure, provider: TableOverlap) -> None:
    """Raise where the folder's own S is not that of the table."""
    if source.is_file() or not has_matrix(source, "overlap"):
        return
    own = read_matrix(source, "overlap", structure)
    other = provider.table.blocks(structure, own.keys, extrapolate=True)
    worst = float(np.abs(own.values - other.values).max())
    if worst > SAME_OVERLAP:
        raise DataError(
            f"{source}: its S differs from that of the table or basis files by up to {worst:.2g}, "
            "so ∂S/∂τ would be another's; give the basis files of this S with --overlap"
        )


def _file(folder: pathlib.Path, kind: Any, axis: str, form: str) -> pathlib.Path:
    return folder / derivative_file(get_format(form).files[kind], axis)


def write_derivative(
    output: str | os.PathLike[str],
    derivative: Derivative,
    model: HamiltonianModel,
    form: str = "legacy",
    overwrite: bool = False,
) -> pathlib.Path:
    """Write the folder ``atom_N``, whole or not at all.

    It holds ``hamiltonians_dx.h5``, ``_dy``, ``_dz``, ``overlaps_dx.h5``, ... with the keys and
    block shapes of ``hamiltonians.h5`` and ``overlaps.h5``, and ``info.json``.

    Args:
        output: where the folder goes.
        derivative: what is written.
        model: which made it.
        form: ``legacy`` or ``dock``: names and layout of the files.
        overwrite: replace a folder that is there.

    Returns:
        The folder.

    Raises:
        DataError: it is there already, or the disk is full.
    """
    output = pathlib.Path(output)
    folder = output / f"atom_{derivative.atom + 1}"

    def check() -> None:
        if folder.exists() and not overwrite:
            raise DataError(f"{folder}: is there already; add --overwrite, or another --output")

    check()
    structure, spinful = derivative.structure, model.targets.basis.spinful
    bundle, stage1 = model.bundle, model.stage1
    info = {
        "isspinful": spinful,
        "derivative": {
            "atom": derivative.atom + 1,
            "of": structure.name,
            "images": "all periodic images move together (q = 0)",
            "hamiltonian_unit": "eV/Å",
            "overlap_unit": "1/Å",
            "overlap": derivative.overlap is not None,
            "blocks": "those of the structure; none enters or leaves",
            "blocks_near_their_end": derivative.near_end,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        OURS: {
            "version": __version__,
            "stage1": pathlib.Path(stage1.name).name if stage1 else None,
            "gformer": bundle.path.resolve().name if bundle and bundle.path else None,
        },
    }
    with replaced_folder(folder, check) as scratch:
        kinds: list[tuple[Any, Three | None]] = [
            ("hamiltonian", derivative.hamiltonian),
            ("overlap", derivative.overlap),
        ]
        for kind, three in kinds:
            for axis, matrix in zip(AXES, three or (), strict=False):
                get_format(form).write_blocks(
                    _file(scratch, kind, axis, form),
                    matrix,
                    structure,
                    spinful and kind == "hamiltonian",
                )
        write_json(scratch / names.INFO_FILE, info)
    return folder


def read_derivative(
    folder: str | os.PathLike[str], structure: Structure, kind: Any = "hamiltonian"
) -> Three:
    """Read what :func:`write_derivative` wrote.

    Args:
        folder: ``atom_N``.
        structure: the one that was differentiated.
        kind: ``hamiltonian`` or ``overlap``.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder = pathlib.Path(folder)
    form = next((f for f in ("legacy", "dock") if _file(folder, kind, "x", f).is_file()), "legacy")
    doubled = kind == "hamiltonian" and bool(structure.spinful)
    x, y, z = (
        get_format(form).read_blocks(_file(folder, kind, axis, form), structure, doubled)
        for axis in AXES
    )
    return x, y, z


def run(
    source: pathlib.Path,
    model: HamiltonianModel,
    words: Sequence[str],
    output: pathlib.Path | None,
    overlap: OverlapSource | None,
    edges: EdgeMode,
    overwrite: bool,
    echo: Callable[[str], None],
) -> list[pathlib.Path]:
    """What the command does: every atom's folder, one after the other.

    Args:
        source: structure folder or file.
        model: both stages.
        words: see :func:`parse_atoms`.
        output: where folders go; default: ``derivative`` in a source folder, beside a file.
        overlap: see :func:`derivatives`.
        edges: see :func:`derivatives`.
        overwrite: replace folders.
        echo: told of each.

    Returns:
        The folders.
    """
    given = open_overlap(overlap, model)
    count = len(read_source(source, model, edges, given, None, Timer()).structure)
    atoms = parse_atoms(words, count)
    form = (folder_format(source) if source.is_dir() else None) or "legacy"
    if output is None:
        output = (
            source / "derivative"
            if source.is_dir()
            else source.with_name(f"{source.stem}_derivative")
        )
    taken = [output / f"atom_{atom + 1}" for atom in atoms]
    there = [folder for folder in taken if folder.exists()]
    if there and not overwrite:
        raise DataError(f"{there[0]}: is there already; add --overwrite, or another --output")
    folders = []
    for found in derivatives(source, model, atoms, given, edges):
        folders.append(write_derivative(output, found, model, form, overwrite))
        largest = max(float(np.abs(m.values).max()) for m in found.hamiltonian)
        echo(
            f"atom {found.atom + 1}: max |∂H/∂τ| {largest:.4g} eV/Å, "
            f"{len(found.hamiltonian[0])} blocks, {found.seconds:.1f} s -> {folders[-1]}"
        )
        if found.overlap is None and len(folders) == 1:
            echo("∂S/∂τ is not written: give a table or basis files with --overlap")
        if found.near_end:
            echo(
                f"{found.near_end} pairs with atom {found.atom + 1} are within {NEAR_END} Å of the "
                "distance where blocks end; what enters or leaves there is not in the derivative"
            )
    return folders
