"""The DFT codes whose files can be read: one module each, and one line here or an entry point
elsewhere.

A reader is a class without arguments that is a :class:`DFTReader`. Another package registers one
under the entry point ``deeph_gformer.dft_readers``; see ``docs/extending.md``.
"""

from __future__ import annotations

import functools
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from ...errors import ConfigError
from ...plugins import installed
from .run import DFTRun

__all__ = ["ENTRY_POINTS", "DFTReader", "readers", "get_reader"]

#: Entry point group where another package names its reader class.
ENTRY_POINTS = "deeph_gformer.dft_readers"
_BUILT_IN = {
    "openmx": "OpenMX",
    "abacus": "Abacus",
    "siesta": "Siesta",
    "gpaw": "Gpaw",
    "aims": "Aims",
    "pyscf": "PySCF",
}


@runtime_checkable
class DFTReader(Protocol):
    """How one DFT code's runs are found and read.

    Attributes:
        name: as ``--from`` names it.
    """

    name: str

    def find(self, path: pathlib.Path) -> list[pathlib.Path]:
        """The runs of this code at ``path`` (a folder, not what is below it, or a file); empty
        where there is none.

        A run whose matrices are missing counts: :meth:`read` says what to set.
        """

    def read(self, run: pathlib.Path, unconverged: bool = False) -> DFTRun:
        """Read one run that :meth:`find` returned, or that a user names.

        Raises:
            DataError: whatever keeps it from being read, with the file and what to do about it.
        """


@functools.cache
def readers() -> Mapping[str, DFTReader]:
    """Every reader by its name; those of this package first.

    Raises:
        GFormerError: another package's entry point is no :class:`DFTReader` with a name of its own.
    """
    known: dict[str, DFTReader] = {}
    for name, kind in _BUILT_IN.items():
        known[name] = getattr(importlib.import_module(f".{name}", __package__), kind)()

    def check(found: Callable[[], object]) -> DFTReader | None:
        reader = found()
        return reader if isinstance(reader, DFTReader) else None

    return installed(ENTRY_POINTS, known, check, "DFTReader")


def get_reader(code: str) -> DFTReader:
    """The reader of a code.

    Args:
        code: its name.

    Raises:
        ConfigError: there is none.
    """
    if code not in readers():
        raise ConfigError(f"--from {code}: there are auto, {', '.join(readers())}")
    return readers()[code]
