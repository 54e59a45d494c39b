"""Basis files of DFT codes: ABACUS ``.orb``, SIESTA ``.ion`` and ``.ion.xml``, OpenMX ``.pao``.

Which file is which, and what is taken from it; readers are in :mod:`.orb`, :mod:`.ion` and
:mod:`.pao`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping

from ..errors import DataError
from .basis import AtomicBasis
from .basis_text import WHERE
from .ion import read_ion, read_ion_xml
from .neighbours import symbol
from .orb import read_orb
from .pao import BASIS_NAME, basis_names, basis_of, is_basis_name, pao_number, read_pao
from .twocentre import Shells

__all__ = ["BASIS_ENDINGS", "is_basis_name", "read_bases", "read_basis_file"]

BASIS_ENDINGS = (".orb", ".ion", ".ion.xml", ".pao")
_LIST_BYTES = 1_000_000


def read_basis_file(path: str | os.PathLike[str], basis: str = "") -> AtomicBasis:
    """Read one basis file, by its name.

    Args:
        path: ``*.orb``, ``*.ion``, ``*.ion.xml`` or ``*.pao``.
        basis: of a ``.pao`` file: what is taken from it, e.g. ``s2p2d1``.

    Raises:
        DataError: none of these, missing, damaged, or a ``.pao`` file without ``basis``.
    """
    path = pathlib.Path(path)
    if path.name.endswith(".orb"):
        return read_orb(path)
    if path.name.endswith(".ion"):
        return read_ion(path)
    if path.name.endswith(".ion.xml"):
        return read_ion_xml(path)
    if path.name.endswith(".pao"):
        if not basis:
            raise DataError(
                f"{path}: holds more radial functions than a calculation takes; name the basis as "
                "in "
                f"the OpenMX input, e.g. {path.stem}-s2p2d1, after the files or the folder"
            )
        return read_pao(path, basis)
    raise DataError(
        f"{path}: basis files end in .orb (ABACUS), .ion or .ion.xml (SIESTA) or .pao (OpenMX)"
    )


def _listed(folder: pathlib.Path, stems: set[str]) -> dict[str, str]:
    """Bases that text files in a folder name (an OpenMX input, or a plain list), by stem.

    Raises:
        DataError: two different ones of one file.
    """
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in ("", ".dat", ".txt", ".in", ".list") or not path.is_file():
            continue
        if path.stat().st_size > _LIST_BYTES:
            continue
        for stem, basis in basis_names(path):
            if stem in stems and found.setdefault(stem, (basis, path.name))[0] != basis:
                raise DataError(
                    f"{folder}: {found[stem][1]} takes {stem}-{found[stem][0]}, {path.name} "
                    f"{stem}-{basis}; name one after the folder"
                )
    return {stem: basis for stem, (basis, _) in found.items()}


@dataclasses.dataclass
class _Named:
    """What the user named.

    Attributes:
        files: basis files, in order.
        folders: folders of basis files.
        wanted: the basis of each ``.pao`` file, by its stem, and the folder that goes with it.
    """

    files: list[pathlib.Path] = dataclasses.field(default_factory=list)
    folders: list[pathlib.Path] = dataclasses.field(default_factory=list)
    wanted: dict[str, tuple[str, pathlib.Path | None]] = dataclasses.field(default_factory=dict)

    def add(self, source: pathlib.Path) -> None:
        """Sort one word of the user's.

        Raises:
            DataError: it names nothing that is there, or a second basis of one file.
        """
        match = BASIS_NAME.fullmatch(source.name)
        if match and not source.exists():
            where = source.parent if source.parent != pathlib.Path() else None
            if self.wanted.get(match[1], (match[2],))[0] != match[2]:
                raise DataError(
                    f"{match[1]}-{self.wanted[match[1]][0]} and {match[1]}-{match[2]}: two bases "
                    "of one file; name one"
                )
            self.wanted[match[1]] = (match[2], where)
        elif source.is_dir():
            self.folders.append(source)
        elif source.name.endswith(BASIS_ENDINGS):
            if source not in self.files:
                self.files.append(source)
        elif source.is_file() and (names := basis_names(source)):
            for stem, basis in names:
                self.wanted.setdefault(stem, (basis, None))
        elif not source.exists():
            raise DataError(f"{source}: no such file or folder; {WHERE}")
        else:
            raise DataError(
                f"{source}: neither a basis file (.orb, .ion, .ion.xml, .pao) nor a list of bases "
                "such as C6.0-s2p2d1"
            )

    def wanted_files(self) -> dict[pathlib.Path, str]:
        """The file of each basis string.

        Raises:
            DataError: there is none.
        """
        found = {}
        for stem, (basis, where) in self.wanted.items():
            places = (
                [where]
                if where
                else [*self.folders, *(f.parent for f in self.files), pathlib.Path()]
            )
            path = next((p / f"{stem}.pao" for p in places if (p / f"{stem}.pao").is_file()), None)
            if path is None:
                looked = ", ".join(dict.fromkeys(str(p) for p in places))
                raise DataError(f"{stem}-{basis}: no {stem}.pao in {looked}; {WHERE}")
            found[path] = basis
        return found


def _inside(
    folder: pathlib.Path, wanted: bool
) -> tuple[list[pathlib.Path], dict[pathlib.Path, str]]:
    """Basis files of a folder, and the ``.pao`` files among them that a list in it speaks of.

    Args:
        folder: of basis files.
        wanted: whether the user named bases; then only these are taken of ``.pao`` files.
    """
    inside = sorted(p for p in folder.iterdir() if p.name.endswith(BASIS_ENDINGS))
    both = {p.name for p in inside}
    # SIESTA writes each basis twice, as text and as XML
    inside = [p for p in inside if not (p.suffix == ".ion" and f"{p.name}.xml" in both)]
    paos = [p for p in inside if p.suffix == ".pao"]
    listed = _listed(folder, {p.stem for p in paos})
    files = [p for p in inside if p.suffix != ".pao"]
    if wanted:
        return files, {}
    if not listed:
        return files + paos, {}
    return files, {p: listed[p.stem] for p in paos if p.stem in listed}


def _by_shells(
    chosen: dict[pathlib.Path, str], orbital_types: Mapping[int, Shells]
) -> dict[pathlib.Path, str]:
    """Give ``.pao`` files that nothing else speaks of the basis of their element's shells.

    Args:
        chosen: basis of each file, empty where it is not known.
        orbital_types: l of each shell by atomic number; files of other elements are left out.
            Empty: not known, nothing is changed.

    Raises:
        DataError: no ``.pao`` file, two files of one element, or shells in another order than
            OpenMX's.
    """
    unknown = {path: pao_number(path) for path, basis in chosen.items() if not basis}
    if not orbital_types:
        return chosen
    result = dict(chosen)
    for path, number in unknown.items():
        if number not in orbital_types:
            del result[path]
            continue
        twin = [str(p) for p, z in unknown.items() if z == number and p != path]
        if twin:
            raise DataError(
                f"{path} and {twin[0]} are both of {symbol(number)}; name the one of the training "
                f"set, e.g. {path.stem}-s2p2d1"
            )
        shells = orbital_types[number]
        if list(shells) != sorted(shells):
            raise DataError(
                f"{path}: shells {list(shells)} of {symbol(number)} are not in OpenMX's order"
            )
        result[path] = basis_of(shells)
    return result


def read_bases(
    sources: Iterable[str | os.PathLike[str]],
    orbital_types: Mapping[int, Shells] | None = None,
) -> list[AtomicBasis]:
    """Read one basis per element.

    Args:
        sources: basis files, folders of them, basis strings (``C6.0-s2p2d1``, with a folder before
            it or not), and lists of basis strings: an OpenMX input or a text file.
        orbital_types: l of each shell by atomic number, for ``.pao`` files that nothing else
            speaks of.

    Raises:
        DataError: a file is missing or damaged, or it is unknown what a ``.pao`` file gives.
    """
    named = _Named()
    for source in sources:
        named.add(pathlib.Path(source))
    chosen = named.wanted_files()
    files = dict.fromkeys(named.files)
    for folder in named.folders:
        more, listed = _inside(folder, bool(named.wanted))
        files.update(dict.fromkeys(more))
        chosen.update(listed)
    plain = [path for path in files if path.suffix != ".pao"]
    for path in files:
        if path.suffix == ".pao" and path not in chosen and path.stem not in named.wanted:
            chosen[path] = ""
    chosen = _by_shells(chosen, orbital_types or {})
    return [read_basis_file(p) for p in plain] + [
        read_basis_file(p, basis) for p, basis in chosen.items()
    ]
