"""Basis files of DFT codes: ABACUS ``.orb``, SIESTA ``.ion`` and ``.ion.xml``, OpenMX ``.pao``.

A ``.pao`` file holds more radial functions than a calculation takes: ``C6.0-s2p2d1`` takes the
first two of L=0, the first two of L=1 and the first of L=2, as they are; they are neither
normalised nor orthogonal.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingDependencyError
from ..io.files import read_text
from .basis import BOHR, AtomicBasis
from .neighbours import symbol
from .rotation import MAX_L
from .twocentre import Shells

__all__ = [
    "BASIS_ENDINGS",
    "is_basis_name",
    "read_bases",
    "read_basis_file",
    "read_ion",
    "read_ion_xml",
    "read_orb",
    "read_pao",
]

BASIS_ENDINGS = (".orb", ".ion", ".ion.xml", ".pao")
#: As OpenMX has it, Å; its files and structures are in this unit.
OPENMX_BOHR = 0.529177249
_STEP = 0.01  # bohr, of the grids made here
_LETTERS = "spdfghi"
#: ``C6.0-s2p2d1``: file without its ending, letters of l and how many radial functions of each.
_NAME = re.compile(r"([A-Za-z][A-Za-z]?[\w.+]*)-((?:[spdfghi][1-9]\d?(?:>\d+)?)+)")
_LIST_BYTES = 1_000_000
_WHERE = (
    "basis files usually lie in DFT_DATA19/PAO of OpenMX (.pao), in the orbital_dir of ABACUS's "
    "INPUT "
    "(.orb), or in the run folder of SIESTA (.ion, .ion.xml)"
)


def is_basis_name(text: str) -> bool:
    """Whether a word is an OpenMX basis such as ``C6.0-s2p2d1``, with a folder before it or not."""
    return _NAME.fullmatch(pathlib.PurePath(text).name) is not None


def _lines(path: pathlib.Path) -> list[str]:
    """Raise DataError where the file is missing or no text."""
    return read_text(path, 2**26, _WHERE, strict=False).splitlines()


def _require_l(path: pathlib.Path, shells: Sequence[int]) -> None:
    if not shells:
        raise DataError(f"{path}: holds no orbitals")
    if min(shells) < 0 or max(shells) > MAX_L:
        wrong = max(shells) if max(shells) > MAX_L else min(shells)
        raise DataError(
            f"{path}: l = {wrong}; the legacy orbital order is defined for l = 0 to {MAX_L} only"
        )


def read_orb(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read an ABACUS numerical-orbital file.

    Shells come in the order of the file (l ascending), as ABACUS and ``orbital_types.dat`` have
    them.

    Raises:
        DataError: the file is missing or is no ABACUS orbital file.
    """
    from ase.data import atomic_numbers

    path = pathlib.Path(path)
    lines = _lines(path)
    head: dict[str, str] = {}
    starts = [n for n, line in enumerate(lines) if line.split()[:3] == ["Type", "L", "N"]]
    for line in lines[: starts[0] if starts else None]:
        words = line.rsplit(maxsplit=1)
        if len(words) == 2:
            head[words[0].strip()] = words[1]
    try:
        number = atomic_numbers[head["Element"]]
        mesh, step = int(head["Mesh"]), float(head["dr"])
        cutoff = float(head["Radius Cutoff(a.u.)"])
        shells, orbitals = [], []
        for start, end in zip(starts, [*starts[1:], len(lines)]):
            shells.append(int(lines[start + 1].split()[1]))
            orbitals.append(np.array(" ".join(lines[start + 2 : end]).split(), dtype=float))
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: not an ABACUS orbital file (missing or damaged: {error})"
        ) from None
    if not starts or any(len(o) != mesh for o in orbitals):
        raise DataError(
            f"{path}: not an ABACUS orbital file, or cut short; {mesh} values per orbital were "
            f"announced, found {[len(o) for o in orbitals]}"
        )
    _require_l(path, shells)
    radius = step * np.arange(mesh)
    return AtomicBasis(
        number, tuple(shells), radius, np.array(orbitals), cutoff, str(path)
    ).normalised()


def read_ion(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read a SIESTA ``.ion`` file (text): one shell per radial function, in the order of the file.

    The file tabulates R(r) / r^l on a uniform grid of its own per function.

    Raises:
        DataError: the file is missing or damaged.
    """
    from scipy.interpolate import CubicSpline

    path = pathlib.Path(path)
    lines = _lines(path)
    number, shells, tables = 0, [], []
    try:
        for n, line in enumerate(lines):
            if "# Atomic number" in line:
                number = int(line.split()[0])
            if "#orbital l, n, z" not in line:
                continue
            points, _, cutoff = lines[n + 1].split()[:3]
            body = " ".join(lines[n + 2 : n + 2 + int(points)]).split()
            table = np.array(body, dtype=float).reshape(int(points), 2)
            shells.append(int(line.split()[0]))
            tables.append((table, float(cutoff)))
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: not a SIESTA .ion file, or cut short ({error})") from None
    if not tables or any(len(table) < 5 for table, _ in tables):
        raise DataError(f"{path}: not a SIESTA .ion file, it has no '#orbital l, n, z' table")
    if number < 1:
        raise DataError(
            f"{path}: atomic number {number}, a floating basis without an atom; only bases of "
            "atoms "
            "are read"
        )
    _require_l(path, shells)
    reach = max(cutoff for _, cutoff in tables)
    radius = np.linspace(0, reach, 2 * math.ceil(reach / _STEP / 2) + 1)
    orbitals = np.zeros((len(shells), len(radius)))
    for n, (l, (table, cutoff)) in enumerate(zip(shells, tables)):
        inside = radius <= min(cutoff, table[-1, 0]) + 1e-9
        # R / r^l is even in r, so its slope at 0 is zero
        spline = CubicSpline(table[:, 0], table[:, 1], bc_type=((1, 0.0), (2, 0.0)))
        orbitals[n, inside] = spline(radius[inside]) * radius[inside] ** l
    return AtomicBasis(number, tuple(shells), radius, orbitals, reach, str(path)).normalised()


def read_ion_xml(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read a SIESTA ``.ion.xml`` file through sisl.

    One shell per (n, l, zeta, polarisation), in the order of the file.

    Raises:
        DataError: the file is missing or unreadable.
        MissingDependencyError: sisl is not installed.
    """
    try:
        import sisl
    except ImportError:
        raise MissingDependencyError("sisl", "sisl", "reading SIESTA .ion.xml files") from None
    path = pathlib.Path(path)
    if "<!ENTITY" in read_text(path, 2**26, _WHERE):
        raise DataError(f"{path}: defines XML entities, which no SIESTA basis does")
    try:
        atom = sisl.get_sile(path).read_basis()
        found: dict[tuple[int, ...], sisl.AtomicOrbital] = {}
        for orbital in atom.orbitals:
            found.setdefault(
                (int(orbital.n), int(orbital.l), int(orbital.zeta), int(orbital.P)), orbital
            )
        reach = max(float(o.R) for o in found.values())
        count = 2 * math.ceil(reach / BOHR / _STEP / 2) + 1
        radius = np.linspace(0, reach, count)
        orbitals = np.array([np.nan_to_num(o.radial(radius)) for o in found.values()])
        number = int(atom.Z)
    except Exception as error:
        raise DataError(
            f"{path}: not a SIESTA basis that sisl can read ({str(error) or type(error).__name__})"
        ) from None
    shells = tuple(key[1] for key in found)
    if number < 1:
        raise DataError(
            f"{path}: atomic number {number}, a floating basis without an atom; only bases of "
            "atoms "
            "are read"
        )
    _require_l(path, shells)
    return AtomicBasis(
        number, shells, radius / BOHR, orbitals, reach / BOHR, str(path)
    ).normalised()


def _taken(text: str, where: str) -> dict[int, int]:
    """Radial functions per l of a string such as ``s2p2d1``.

    Raises:
        DataError: contracted functions, an l that appears twice, or no such string.
    """
    if not re.fullmatch(r"(?:[spdfghi][1-9]\d?(?:>\d+)?)+", text):
        raise DataError(f"{where}: '{text}' is no basis; write e.g. s2p2d1")
    if ">" in text:
        raise DataError(
            f"{where}: '{text}' are contracted orbitals, whose coefficients are not in the .pao "
            "file; "
            "use S of the OpenMX run instead"
        )
    counts: dict[int, int] = {}
    for letter, count in re.findall(r"([spdfghi])(\d+)", text):
        if _LETTERS.index(letter) in counts:
            raise DataError(f"{where}: '{text}' names {letter} twice")
        counts[_LETTERS.index(letter)] = int(count)
    return dict(sorted(counts.items()))


def _hermite(mesh: NDArray[np.float64], values: NDArray[np.float64], x: NDArray[np.float64]):
    """(n, points): OpenMX's interpolation of (rows, n), cubic, slopes from parabolas through
    three points."""
    from scipy.interpolate import CubicHermiteSpline

    step = np.diff(mesh)[:, None]
    rise = np.diff(values, axis=0) / step
    slope = np.empty_like(values)
    slope[1:-1] = (rise[1:] * step[:-1] + rise[:-1] * step[1:]) / (step[1:] + step[:-1])
    slope[0], slope[-1] = rise[0], rise[-1]
    return CubicHermiteSpline(mesh, values, slope)(x).T


def _word(lines: Iterable[str], name: str) -> str:
    for line in lines:
        words = line.split("#")[0].split()
        if len(words) > 1 and words[0].lower() == name.lower():
            return words[1]
    raise KeyError(name)


def _pao_number(path: pathlib.Path) -> int:
    """Atomic number of a ``.pao`` file.

    Raises:
        DataError: it is none.
    """
    try:
        return int(_word(_lines(path), "AtomSpecies"))
    except (KeyError, ValueError):
        raise DataError(f"{path}: not an OpenMX .pao file, it has no AtomSpecies") from None


def read_pao(path: str | os.PathLike[str], basis: str) -> AtomicBasis:
    """Read the radial functions that an OpenMX calculation takes from a ``.pao`` file.

    Args:
        path: the file, e.g. ``C6.0.pao``.
        basis: how many of each l, e.g. ``s2p2d1``.

    Returns:
        R(r) as in the file, not normalised, shells with l ascending.

    Raises:
        DataError: the file is missing, damaged or cut short, or has no such functions.
    """
    path = pathlib.Path(path)
    counts = _taken(basis, str(path))
    lines = _lines(path)
    start = {line.strip(): n for n, line in enumerate(lines) if line.startswith("<pseudo.atomic")}
    try:
        number = int(_word(lines, "AtomSpecies"))
        rows = int(_word(lines, "grid.num.output"))
        cutoff = float(_word(lines, "radial.cutoff.pao"))
        columns, most = int(_word(lines, "PAO.Mul")), int(_word(lines, "PAO.Lmax"))
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not an OpenMX .pao file, or damaged (missing: {error})") from None
    if not (0 < number < 119 and 4 < rows < 10**6 and 0 < columns < 1000 and 0 < cutoff < 100):
        raise DataError(f"{path}: its header has impossible values, the file is damaged")
    shells: list[int] = []
    parts, radius, end = [], np.zeros(0), cutoff
    for l, count in counts.items():
        if l > most or count > columns:
            raise DataError(
                f"{path}: '{basis}' takes {count} {_LETTERS[l]} functions, the file has {columns} "
                "for "
                f"each l up to {_LETTERS[most] if most < len(_LETTERS) else most}"
            )
        _require_l(path, [l])
        first = start.get(f"<pseudo.atomic.orbitals.L={l}")
        body = lines[first + 1 : first + 1 + rows] if first is not None else []
        try:
            table = np.array(" ".join(body).split(), dtype=float).reshape(rows, columns + 2)
        except ValueError:
            raise DataError(
                f"{path}: the table of l = {l} is damaged or cut short; {rows} rows of "
                f"{columns + 2} "
                "numbers were announced"
            ) from None
        mesh = table[:, 1]
        if not (np.isfinite(table).all() and (np.diff(mesh) > 0).all() and mesh[-1] >= cutoff):
            raise DataError(
                f"{path}: the table of l = {l} has no ascending radii up to {cutoff} bohr"
            )
        # the interpolation overshoots to the mesh points behind the cutoff, in OpenMX as well
        if not len(radius):
            end = mesh[min(int(np.searchsorted(mesh, cutoff)) + 2, rows - 1)]
            radius = np.arange(2 * math.ceil(end / _STEP / 2) + 1) * _STEP
        inside = np.clip(radius, mesh[0], end)
        parts.append(_hermite(mesh, table[:, 2 : 2 + count], inside))
        shells += [l] * count
    return AtomicBasis(
        number, tuple(shells), radius, np.concatenate(parts), cutoff, str(path), OPENMX_BOHR
    )


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
        for stem, basis in _words(path):
            if stem in stems and found.setdefault(stem, (basis, path.name))[0] != basis:
                raise DataError(
                    f"{folder}: {found[stem][1]} takes {stem}-{found[stem][0]}, {path.name} "
                    f"{stem}-{basis}; name one after the folder"
                )
    return {stem: basis for stem, (basis, _) in found.items()}


def _words(path: pathlib.Path) -> list[tuple[str, str]]:
    """(stem, basis) of every basis string in a text file."""
    found = []
    for line in _lines(path):
        for word in re.split(r"[\s,;\"']+", line.split("#")[0]):
            if match := _NAME.fullmatch(word):
                found.append((match[1], match[2]))
    return found


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
    files: dict[pathlib.Path, None] = {}
    folders: list[pathlib.Path] = []
    wanted: dict[str, tuple[str, pathlib.Path | None]] = {}
    for source in map(pathlib.Path, sources):
        match = _NAME.fullmatch(source.name)
        if match and not source.exists():
            where = source.parent if source.parent != pathlib.Path() else None
            if wanted.get(match[1], (match[2],))[0] != match[2]:
                raise DataError(
                    f"{match[1]}-{wanted[match[1]][0]} and {match[1]}-{match[2]}: two bases of "
                    "one file; "
                    "name one"
                )
            wanted[match[1]] = (match[2], where)
        elif source.is_dir():
            folders.append(source)
        elif source.name.endswith(BASIS_ENDINGS):
            files[source] = None
        elif source.is_file() and (names := _words(source)):
            for stem, basis in names:
                wanted.setdefault(stem, (basis, None))
        elif not source.exists():
            raise DataError(f"{source}: no such file or folder; {_WHERE}")
        else:
            raise DataError(
                f"{source}: neither a basis file (.orb, .ion, .ion.xml, .pao) nor a list of bases "
                "such as "
                "C6.0-s2p2d1"
            )
    chosen: dict[pathlib.Path, str] = {}
    for stem, (basis, where) in wanted.items():
        places = [where] if where else [*folders, *(f.parent for f in files), pathlib.Path()]
        path = next((p / f"{stem}.pao" for p in places if (p / f"{stem}.pao").is_file()), None)
        if path is None:
            looked = ", ".join(dict.fromkeys(str(p) for p in places))
            raise DataError(f"{stem}-{basis}: no {stem}.pao in {looked}; {_WHERE}")
        chosen[path] = basis
    for folder in folders:
        inside = sorted(p for p in folder.iterdir() if p.name.endswith(BASIS_ENDINGS))
        both = {p.name for p in inside}
        # SIESTA writes each basis twice, as text and as XML
        inside = [p for p in inside if not (p.suffix == ".ion" and f"{p.name}.xml" in both)]
        listed = _listed(folder, {p.stem for p in inside if p.suffix == ".pao"})
        for path in inside:
            if path.suffix != ".pao":
                files[path] = None
            elif path.stem in listed and path.stem not in wanted and not wanted:
                chosen[path] = listed[path.stem]
            elif not wanted and not listed:
                files[path] = None
    for path in [p for p in files if p.suffix == ".pao"]:
        del files[path]
        if path not in chosen and path.stem not in wanted:
            chosen[path] = ""
    unknown = {path: _pao_number(path) for path, basis in chosen.items() if not basis}
    for path, number in unknown.items():
        if not orbital_types:
            continue
        if number not in orbital_types:
            del chosen[path]
            continue
        twin = [str(p) for p, z in unknown.items() if z == number and p != path]
        if twin:
            raise DataError(
                f"{path} and {twin[0]} are both of {symbol(number)}; name the one of the training "
                "set, "
                f"e.g. {path.stem}-s2p2d1"
            )
        shells = orbital_types[number]
        if list(shells) != sorted(shells):
            raise DataError(
                f"{path}: shells {list(shells)} of {symbol(number)} are not in OpenMX's order"
            )
        chosen[path] = "".join(f"{_LETTERS[l]}{shells.count(l)}" for l in sorted(set(shells)))
    return [read_basis_file(p) for p in files] + [
        read_basis_file(p, basis) for p, basis in chosen.items()
    ]
