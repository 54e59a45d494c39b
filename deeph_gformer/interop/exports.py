"""What ``convert`` writes beside structure folders: one module each, and one line here or an entry
point elsewhere.

An export is an :class:`Export`: a name, what it writes and which options it reads. Another package
registers one under the entry point ``deeph_gformer.exports``; see ``docs/extending.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from ..errors import DataError
from ..io.files import entry_kind, is_filled
from ..io.folder import has_matrix
from ..io.formats import formats
from ..plugins import installed

if TYPE_CHECKING:
    from ..bands import BlochProblem
    from ..io.positions import PositionMatrix

__all__ = ["ENTRY_POINTS", "Export", "ExportSource", "exports", "targets"]

#: Entry point group where another package names its :class:`Export`.
ENTRY_POINTS = "deeph_gformer.exports"
_BUILT_IN = ("wannier90", "wannierberri", "kwant", "pyatb", "sisl", "sparse", "poscar")


@dataclasses.dataclass(frozen=True)
class ExportSource:
    """A structure folder, and what the user said about it.

    Attributes:
        folder: legacy, DeepH-dock, ...
        kind: which Hamiltonian; None: DFT's, or the prediction where that is alone.
        overlap_folder: where S is, when not beside H.
        mesh: k mesh, as given.
    """

    folder: pathlib.Path
    kind: Literal["hamiltonian", "prediction"] | None = None
    overlap_folder: pathlib.Path | None = None
    mesh: str | None = None

    @property
    def matrix(self) -> Literal["hamiltonian", "prediction"]:
        """Which Hamiltonian is written."""
        if self.kind is not None:
            return self.kind
        return "hamiltonian" if has_matrix(self.folder, "hamiltonian") else "prediction"

    @functools.cached_property
    def problem(self) -> BlochProblem:
        """H and S, read once.

        Raises:
            DataError: they are not there, or damaged.
        """
        from ..bands import load

        return load(self.folder, self.matrix, self.overlap_folder)

    @functools.cached_property
    def positions(self) -> PositionMatrix | None:
        """x, y, z of the position matrix beside S or H, Å; None where there is none.

        Raises:
            DataError: it is damaged.
        """
        from ..io.positions import position_path, read_positions

        for folder in (self.overlap_folder, self.folder):
            if folder is not None and position_path(folder).is_file():
                return read_positions(folder, self.problem.structure)
        return None


@dataclasses.dataclass(frozen=True)
class Export:
    """One way out.

    Attributes:
        name: as ``--to`` names it.
        write: (target, source) -> (names of the files, notes); the target is whole or not there.
        folder: whether it writes a folder; otherwise a file.
        suffix: of its file, where ``convert`` names it.
        options: what it reads of ``kind``, ``overlap`` and ``mesh``; others are refused.
    """

    name: str
    write: Callable[[pathlib.Path, ExportSource], tuple[list[str], list[str]]]
    folder: bool = False
    suffix: str = ""
    options: tuple[str, ...] = ("kind", "overlap")

    def check_target(self, target: pathlib.Path, overwrite: bool) -> None:
        """Refuse what is in the way.

        Args:
            target: to be written.
            overwrite: replace what is there.

        Raises:
            DataError: a file instead of a folder or the other way round, or it is there already.
        """
        found = entry_kind(target)
        if found is None:
            return
        needed = "folder" if self.folder else "file"
        if found != needed:
            raise DataError(f"{target}: is a {found}; --to {self.name} writes a {needed}")
        if not overwrite and (found == "file" or is_filled(target)):
            raise DataError(
                f"{target}: is there already; add --overwrite to replace it, or name another one"
            )


@functools.cache
def exports() -> Mapping[str, Export]:
    """Every export by its name; those of this package first.

    Raises:
        GFormerError: another package's entry point is no :class:`Export` with a name of its own.
    """
    known: dict[str, Export] = {}
    for module in _BUILT_IN:
        export = importlib.import_module(f".{module}", __package__).EXPORT
        known[export.name] = export

    def check(found: object) -> Export | None:
        return found if isinstance(found, Export) and found.name not in formats() else None

    return installed(ENTRY_POINTS, known, check, "Export")


def targets() -> tuple[str, ...]:
    """What ``convert --to`` knows: every folder format, and every export."""
    return (*formats(), *exports())
