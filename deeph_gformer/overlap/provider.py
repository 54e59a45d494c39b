"""Where overlaps come from: a fitted table, basis files, or the user's own ``overlaps.h5``, behind
one interface."""

from __future__ import annotations

import abc
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..errors import DataError
from ..io import BlockMatrix, Structure, read_folder, read_matrix
from ..io.blocks import format_key, match_keys
from ..io.folder import folder_format, folder_of_overlap, matrix_path, require_folder
from .basis import two_centre
from .basis_files import BASIS_ENDINGS, is_basis_name, read_bases
from .neighbours import edge_keys
from .positions import PositionTables
from .table import load_table
from .twocentre import Shells, TwoCentre

__all__ = [
    "BasisOverlap",
    "FolderOverlap",
    "OverlapProvider",
    "TableOverlap",
    "load",
]


class OverlapProvider(abc.ABC):
    """Edges and overlaps of a structure."""

    @property
    @abc.abstractmethod
    def orbital_types(self) -> Mapping[int, Shells]:
        """l of each shell, by atomic number."""

    @property
    @abc.abstractmethod
    def cutoffs(self) -> Mapping[tuple[int, int], float]:
        """Edge cutoff by pair of atomic numbers (the smaller first), Å."""

    @abc.abstractmethod
    def edges(
        self, structure: Structure, pbc: Sequence[bool] = (True, True, True)
    ) -> NDArray[np.int64]:
        """Which blocks S has.

        Args:
            structure: positions and lattice, Å.
            pbc: whether each lattice vector repeats. No coupling is lost where a slab or molecule
                lies across a boundary that does not repeat.

        Returns:
            (E, 5) keys Rx Ry Rz i j, 0-based, canonical order, symmetric, on-site ones included.

        Raises:
            DataError: the couplings repeat along a vector whose ``pbc`` is False; see also the
                provider.
        """

    def edges_of(
        self, structure: Structure, pbc: Sequence[bool], atoms: tuple[int, int]
    ) -> NDArray[np.int64]:
        """:meth:`edges` of some atoms, for one of the processes that share a structure.

        Args:
            structure: see :meth:`edges`.
            pbc: see :meth:`edges`.
            atoms: first atom i, and the one after the last.
        """
        keys = self.edges(structure, pbc)
        return keys[slice(*np.searchsorted(keys[:, 3], atoms))]

    @abc.abstractmethod
    def overlap(self, structure: Structure, keys: NDArray[np.int64] | None = None) -> BlockMatrix:
        """S on ``keys`` (default: :meth:`edges`), orbitals in the legacy order.

        Raises:
            DataError: the provider cannot know S of this structure; the message says what it knows.
        """


class TableOverlap(OverlapProvider):
    """Two-centre overlaps from radial functions.

    Args:
        table: fitted (:func:`deeph_gformer.overlap.fit_table`) or read from a file
            (:func:`deeph_gformer.overlap.load_table`).
        extrapolate: allow distances that the table does not know, and cut where the structure
            repeats against its ``pbc``.
    """

    def __init__(self, table: TwoCentre, extrapolate: bool = False) -> None:
        self.table = table
        self.extrapolate = extrapolate

    @property
    def orbital_types(self) -> Mapping[int, Shells]:
        """Shells of each element."""
        return self.table.orbital_types

    @property
    def cutoffs(self) -> Mapping[tuple[int, int], float]:
        """Distance where blocks of each pair of elements end, Å."""
        return self.table.cutoffs

    def edges(
        self, structure: Structure, pbc: Sequence[bool] = (True, True, True)
    ) -> NDArray[np.int64]:
        """See :class:`OverlapProvider`. Pairs of elements that the table has never seen together
        get the largest cutoff, so that they are noticed.

        Raises:
            DataError: unknown element or shells, two atoms on one place, or, unless extrapolating,
                couplings that contradict ``pbc``.
        """
        return self._edges(structure, pbc)

    def edges_of(
        self, structure: Structure, pbc: Sequence[bool], atoms: tuple[int, int]
    ) -> NDArray[np.int64]:
        """See :class:`OverlapProvider`; no others are looked for."""
        return self._edges(structure, pbc, atoms)

    def _edges(
        self, structure: Structure, pbc: Sequence[bool], atoms: tuple[int, int] | None = None
    ) -> NDArray[np.int64]:
        self.table.check(structure)
        kinds = sorted(set(structure.numbers.tolist()))
        longest = max(self.cutoffs.values(), default=0.0)
        return edge_keys(
            structure,
            {(a, b): self.cutoffs.get((a, b), longest) for a in kinds for b in kinds if a <= b},
            pbc,
            cut=self.extrapolate,
            atoms=atoms,
        )

    def overlap(self, structure: Structure, keys: NDArray[np.int64] | None = None) -> BlockMatrix:
        """See :class:`OverlapProvider` and :meth:`TwoCentre.blocks`."""
        return self.table.blocks(
            structure, self.edges(structure) if keys is None else keys, self.extrapolate
        )


class BasisOverlap(TableOverlap):
    """Two-centre overlaps computed from basis files, one per element.

    Args:
        files: what :func:`deeph_gformer.overlap.basis_files.read_bases` takes: files, folders of
            them, basis strings such as ``C6.0-s2p2d1``, or an OpenMX input that names them.
        extrapolate: see :class:`TableOverlap`.
        orbital_types: l of each shell by atomic number, for ``.pao`` files without a basis string.

    Attributes:
        bases: the orbitals, one per element.

    Raises:
        DataError: a file is missing, damaged or of an element that another file has.
    """

    def __init__(
        self,
        files: Iterable[str | os.PathLike[str]],
        extrapolate: bool = False,
        orbital_types: Mapping[int, Shells] | None = None,
    ) -> None:
        self.bases = read_bases(files, orbital_types)
        self._positions: PositionTables | None = None
        super().__init__(two_centre(self.bases), extrapolate)

    def positions(
        self,
        structure: Structure,
        keys: NDArray[np.int64] | None = None,
        overlap: BlockMatrix | None = None,
    ) -> tuple[BlockMatrix, BlockMatrix, BlockMatrix]:
        """``<i, 0| r |j, R>`` on ``keys`` (default: :meth:`edges`).

        Args:
            structure: r counts from the origin of its coordinates.
            keys: (E, 5), Rx Ry Rz i j, 0-based.
            overlap: S that belongs to r, see :meth:`PositionTables.blocks`.

        Returns:
            x, y and z, Å, orbitals in the legacy order.

        Raises:
            DataError: see :meth:`PositionTables.blocks`.
        """
        if self._positions is None:
            self._positions = PositionTables(self.bases, self.table)
        return self._positions.blocks(
            structure, self.edges(structure) if keys is None else keys, self.extrapolate, overlap
        )


class FolderOverlap(OverlapProvider):
    """The user's own S.

    Args:
        folder: a structure folder with S, or a folder of such folders; then S is that of the folder
            with the structure's name.

    Raises:
        DataError: no such folder, or none with structures.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = require_folder(folder)
        below = sorted(path for path in self.folder.iterdir() if path.is_dir())
        self._first = next((path for path in below if folder_format(path) is not None), None)
        if folder_format(self.folder) is None and self._first is None:
            raise DataError(
                f"{self.folder}: no source of overlaps: neither a structure folder nor a folder of "
                "them, and no basis files"
            )
        self._last: tuple[pathlib.Path, Structure, BlockMatrix] | None = None

    def _read(self, folder: pathlib.Path) -> tuple[pathlib.Path, Structure, BlockMatrix]:
        if self._last is None or self._last[0] != folder:
            structure = read_folder(folder)
            self._last = (folder, structure, read_matrix(folder, "overlap", structure))
        return self._last

    def _one(self) -> tuple[pathlib.Path, Structure, BlockMatrix]:
        if folder_format(self.folder) is None and self._last is None:
            raise DataError(
                f"{self.folder}: holds folders of structures, and a structure file does not say "
                f"whose S to take; name the folder of one, such as {self._first}"
            )
        return self._last or self._read(self.folder)

    def _file(self, structure: Structure) -> pathlib.Path:
        """Where S of the structure is."""
        folder = self.folder if folder_format(self.folder) else self.folder / structure.name
        return matrix_path(folder, "overlap")

    def _for(self, structure: Structure) -> BlockMatrix:
        path = self._file(structure)
        _, mine, matrix = self._read(path.parent)
        if mine.orbital_types != structure.orbital_types or not np.array_equal(
            mine.numbers, structure.numbers
        ):
            raise DataError(
                f"{path}: its atoms or shells are not those of '{structure.name}', in this order"
            )
        shift = max(
            np.abs(mine.positions - structure.positions).max(),
            np.abs(mine.lattice - structure.lattice).max(),
        )
        if shift > 1e-3:
            raise DataError(
                f"{path}: its atoms or lattice are up to {shift:.3g} Å away from those of "
                f"'{structure.name}'; S belongs to another geometry"
            )
        return matrix

    @property
    def orbital_types(self) -> Mapping[int, Shells]:
        """l of each shell, by atomic number, of the structure that was read last."""
        structure = self._one()[1]
        return {
            z: tuple(shells)
            for z, shells in zip(structure.numbers.tolist(), structure.orbital_types, strict=True)
        }

    @property
    def cutoffs(self) -> Mapping[tuple[int, int], float]:
        """A little more than the longest block of each pair of elements, Å."""
        _, structure, matrix = self._one()
        numbers = np.sort(structure.numbers[matrix.keys[:, 3:]], axis=1)
        distance = np.linalg.norm(structure.edge_vectors(matrix.keys), axis=1)
        return {
            (int(a), int(b)): float(distance[(numbers == (a, b)).all(axis=1)].max()) + 1e-6
            for a, b in np.unique(numbers, axis=0)
        }

    def edges(
        self, structure: Structure, pbc: Sequence[bool] = (True, True, True)
    ) -> NDArray[np.int64]:
        """The keys of the file.

        Raises:
            DataError: the file belongs to another structure, or repeats against ``pbc``.
        """
        keys = self._for(structure).keys
        against = [n for n in range(3) if not pbc[n] and keys[:, n].any()]
        if against:
            raise DataError(
                f"{self._file(structure)}: S repeats along a{against[0] + 1}, but pbc of "
                f"'{structure.name}' says that this vector does not repeat; set pbc, or use S of "
                "such a structure"
            )
        return keys

    def overlap(self, structure: Structure, keys: NDArray[np.int64] | None = None) -> BlockMatrix:
        """See :class:`OverlapProvider`.

        Raises:
            DataError: a key is not in the file, or the file belongs to another structure.
        """
        matrix = self._for(structure)
        if keys is None:
            return matrix
        place = match_keys(np.asarray(keys, dtype=np.int64).reshape(-1, 5), matrix.keys)
        absent = np.flatnonzero(place < 0)
        if len(absent):
            raise DataError(
                f"{self._file(structure)}: S of '{structure.name}' has no block "
                f"{format_key(keys[absent[0]])} ({len(absent)} such blocks); "
                "leave those out, or use a table or basis files"
            )
        return matrix.select(place)


def load(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    extrapolate: bool = False,
    orbital_types: Mapping[int, Shells] | None = None,
) -> OverlapProvider:
    """Open what ``--overlap`` names.

    Args:
        source: a table (``.npz``), or a GFormer bundle that holds one; basis files (``.orb``,
            ``.ion``, ``.ion.xml``, ``.pao``), one or several, or a folder of them, with OpenMX's
            basis strings (``C6.0-s2p2d1``) among them; a structure folder with S, its
            ``overlaps.h5`` or ``overlap.h5``, or a folder of structure folders.
        extrapolate: allow distances that a table does not know, and structures that repeat against
            their ``pbc`` (they are cut).
        orbital_types: l of each shell by atomic number, where it is known: says what is taken from
            ``.pao`` files without a basis string.

    Raises:
        DataError: it is none of these.
    """
    if not isinstance(source, (str, os.PathLike)):
        files = [pathlib.Path(s) for s in source]
        if len(files) != 1:
            return BasisOverlap(files, extrapolate, orbital_types)
        source = files[0]
    path = pathlib.Path(source)
    if path.is_dir():
        if (path / fields.OVERLAP_TABLE).is_file():
            return TableOverlap(load_table(path / fields.OVERLAP_TABLE), extrapolate)
        if folder_format(path) is None and any(
            p.name.endswith(BASIS_ENDINGS) for p in path.iterdir()
        ):
            return BasisOverlap([path], extrapolate, orbital_types)
        return FolderOverlap(path)
    if is_basis_name(str(path)) and not path.exists():
        return BasisOverlap([path], extrapolate, orbital_types)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix == ".npz":
        return TableOverlap(load_table(path), extrapolate)
    if path.name.endswith(BASIS_ENDINGS):
        return BasisOverlap([path], extrapolate, orbital_types)
    folder = folder_of_overlap(path)
    if folder != path:
        return FolderOverlap(folder)
    raise DataError(
        f"{path}: no source of overlaps; give a table (.npz), basis files (.orb, .ion, .ion.xml, "
        ".pao), "
        f"{fields.OVERLAP_FILE} or its folder"
    )
