"""OpenMX: ``.scfout`` files and overlap-only runs ->
:class:`~deeph_gformer.interop.dft.run.DFTRun`.

Elements and shells come from the input inside the ``.scfout``: the label is free, so the element is
that of the pseudopotential, and shells stand l = 0, 1, 2, ... whatever the order of the basis
string. H is on OpenMX's absolute zero of energy, as are the chemical potential and ``.Band``.
OpenMX's orbital order and phase are those of legacy folders.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...io import BlockMatrix, Structure, legacy
from ...io.files import read_text, real_path
from .run import UNCONVERGED, DFTRun, describe, double, element_from
from .scfout import RELEASES, Scfout, read_scfout

__all__ = ["OpenMX", "BOHR_A", "HARTREE_EV", "shells_of"]

#: OpenMX's own constants (and DeepH's).
BOHR_A, HARTREE_EV = 0.529177249, 27.2113845
_SPIN = {0: "none", 1: "collinear", 3: "non-collinear"}
_ASK = "set 'HS.fileout on' in the input and run OpenMX again"
_LETTERS = "spdf"


class OpenMX:
    """Reader of OpenMX runs."""

    name = "openmx"

    def find(self, path: pathlib.Path) -> list[pathlib.Path]:
        """Runs at ``path``: ``.scfout`` files, an overlap-only run, or a run that wrote neither."""
        if path.is_file():
            return [path] if path.suffix == ".scfout" else []
        files = sorted(path.glob("*.scfout"))
        if files:
            return files
        if any(path.glob("output/overlaps_*.h5")) and _inputs(path):
            return [path]
        return [path] if _inputs(path) else []

    def read(self, run: pathlib.Path, unconverged: bool = False) -> DFTRun:
        """Read one run.

        Args:
            run: a ``.scfout``, or the folder of a run.
            unconverged: read runs whose density did not converge, too.

        Raises:
            DataError: files are missing, damaged or of different runs, the run did not converge, or
                a setting has no form in a folder.
        """
        if run.is_dir():
            files = sorted(run.glob("*.scfout"))
            if len(files) > 1:
                raise DataError(
                    f"{run}: holds {', '.join(f.name for f in files)}; name one of them"
                )
            if not files:
                return _overlap_only(run)
            run = files[0]
        return _scfout(run, unconverged)


def _scfout(path: pathlib.Path, unconverged: bool) -> DFTRun:
    data = read_scfout(path)
    species = _species(data.input_text, path)
    labels = _labels(data.input_text, path)
    if len(labels) != len(data.positions):
        raise DataError(
            f"{path}: {len(data.positions)} atoms, but its input lists {len(labels)}; the file "
            "is damaged"
        )
    numbers, shells = _atoms(labels, species, path)
    for atom, (own, count) in enumerate(zip(shells, data.orbital_counts.tolist(), strict=True)):
        if sum(2 * l + 1 for l in own) != count:
            raise DataError(
                f"{path}: atom {atom + 1} has {count} orbitals, but its basis "
                f"'{species[labels[atom]][0]}' has {sum(2 * l + 1 for l in own)}"
            )
    notes = []
    only_overlap = path.name == "overlap.scfout"
    if only_overlap:
        notes.append(f"{path.name} is written without self-consistency: its H is left out")
    if data.extra_bytes:
        notes.append(_extra(data, path))
    version, converged = _output(path, data, notes, unconverged or only_overlap)
    if not (converged or unconverged or only_overlap):
        raise DataError(f"{path}: the run did not converge; {UNCONVERGED}")
    info = describe(
        "OpenMX",
        version or RELEASES[data.version],
        fermi_level=None if only_overlap else data.chemical_potential * HARTREE_EV,
        electrons=_whole(data.electrons),
        functional=_keyword(data.input_text, "scf.xctype") or "LDA",
        spin=_SPIN[data.spin],
        converged=None if converged else False,
    )
    spinful = data.spin != 0 and not only_overlap
    structure = Structure(
        data.lattice * BOHR_A,
        data.positions * BOHR_A,
        numbers,
        shells,
        spinful,
        info,
        path.stem,
    )
    if data.spin == 1 and not only_overlap:
        notes.append("collinear spin: H is [[up, 0], [0, down]]")
    if len(np.unique(data.keys, axis=0)) < len(data.keys):
        raise DataError(f"{path}: damaged: a pair of atoms stands twice in the list of neighbours")
    h = None if only_overlap else _hamiltonian(data)
    s = _blocks(data, data.overlap)
    return DFTRun(structure, h, s, tuple(notes), (path,))


def _blocks(data: Scfout, values: NDArray[np.float64]) -> BlockMatrix:
    """One matrix of the file, its blocks put into canonical order."""
    keys = data.keys
    shapes = data.orbital_counts[keys[:, 3:]]
    native = np.asarray(values, dtype=np.float64)
    return BlockMatrix(keys, shapes, native).select(np.arange(len(keys)))


def _hamiltonian(data: Scfout) -> BlockMatrix:
    """H in eV: spinless, [[up, 0], [0, down]], or [[uu, ud], [ud†, dd]]."""
    h = [_blocks(data, part * HARTREE_EV) for part in data.hamiltonian]
    if data.spin == 0:
        return h[0]
    if data.spin == 1:
        empty = BlockMatrix(h[0].keys, h[0].shapes, np.zeros(len(h[0].values)))
        return double((h[0], empty, empty, h[1]))
    im = [
        _blocks(data, part * HARTREE_EV).values
        for part in data.imaginary  # type: ignore[union-attr]
    ]
    uu, dd, ud = (
        BlockMatrix(h[0].keys, h[0].shapes, values)
        for values in (
            h[0].values + 1j * im[0],
            h[1].values + 1j * im[1],
            h[2].values + 1j * (h[3].values + im[2]),
        )
    )
    return double((uu, ud, ud.conjugate_transpose(), dd))


def _whole(number: float) -> float | int:
    """The number, as an integer where it is one to 1e-6."""
    return round(number) if abs(number - round(number)) < 1e-6 else number


def _extra(data: Scfout, path: pathlib.Path) -> str:
    """What follows the input, in words; see OpenMX's newer development versions."""
    expected = 8 * (data.spin + 1) * len(data.overlap)
    if data.extra_bytes == expected:
        return "the exchange-correlation matrix after the input is not read"
    return f"{data.extra_bytes} bytes after the last known field are not read"


def _keyword(text: str, name: str) -> str | None:
    """The value of a keyword of OpenMX's input, or None."""
    found = re.search(rf"^[ \t]*{re.escape(name)}[ \t]+(\S+)", text, re.IGNORECASE | re.MULTILINE)
    return found.group(1) if found else None


def _block(text: str, name: str, where: pathlib.Path) -> list[list[str]]:
    """The lines of ``<name ... name>``, split into words, without comments."""
    found = re.search(
        rf"^[ \t]*<{re.escape(name)}[^\n]*\n(.*?)^[ \t]*{re.escape(name)}>",
        text,
        re.IGNORECASE | re.MULTILINE | re.DOTALL,
    )
    if not found:
        raise DataError(f"{where}: its input has no <{name}, which names elements and shells")
    lines = (line.split("#")[0].split() for line in found.group(1).splitlines())
    return [line for line in lines if line]


def _species(text: str, where: pathlib.Path) -> dict[str, tuple[str, str]]:
    """{label: (PAO with basis, pseudopotential)}."""
    lines = _block(text, "Definition.of.Atomic.Species", where)
    short = next((line for line in lines if len(line) < 3), None)
    if short:
        raise DataError(
            f"{where}: species '{' '.join(short)}' needs a label, an orbital file and a potential"
        )
    return {line[0]: (line[1], line[2]) for line in lines}


def _labels(text: str, where: pathlib.Path) -> list[str]:
    lines = _block(text, "Atoms.SpeciesAndCoordinates", where)
    return [line[1] if len(line) > 1 else "" for line in lines]


def _atoms(
    labels: Sequence[str], species: dict[str, tuple[str, str]], where: pathlib.Path
) -> tuple[NDArray[np.int64], tuple[tuple[int, ...], ...]]:
    """Atomic numbers and shells of the atoms."""
    kinds = {}
    for label in dict.fromkeys(labels):
        if label not in species:
            raise DataError(
                f"{where}: atom {list(labels).index(label) + 1} is a '{label}', a label that "
                "<Definition.of.Atomic.Species does not define"
            )
        pao, potential = species[label]
        kinds[label] = (element_from((potential, pao), where), shells_of(pao, where))
    return (
        np.array([kinds[label][0] for label in labels], dtype=np.int64),
        tuple(kinds[label][1] for label in labels),
    )


def shells_of(pao: str, where: pathlib.Path) -> tuple[int, ...]:
    """l of the shells of a basis like ``C6.0-s2p2d1``: sorted; of ``s4>2`` the number after ``>``
    counts.

    Args:
        pao: name of the orbital file with the basis.
        where: for messages.

    Raises:
        DataError: no basis, a shell twice, or one beyond f.
    """
    basis = pao.rpartition("-")[2] if "-" in pao else ""
    found = re.findall(r"([a-z])(\d+)(?:>(\d+))?", basis)
    if not found or "".join(a + b + (f">{c}" if c else "") for a, b, c in found) != basis:
        raise DataError(f"{where}: '{pao}' has no basis such as s2p2d1 after a dash")
    letters = [letter for letter, _, _ in found]
    unknown = [letter for letter in letters if letter not in _LETTERS]
    if unknown:
        raise DataError(
            f"{where}: '{pao}' has {unknown[0]} shells; DeepH's folders hold s, p, d and f"
        )
    if len(set(letters)) < len(letters):
        raise DataError(f"{where}: '{pao}' names a shell twice")
    shells = []
    for letter, plain, contracted in found:
        shells += [_LETTERS.index(letter)] * int(contracted or plain)
    return tuple(sorted(shells))


def _inputs(folder: pathlib.Path) -> list[pathlib.Path]:
    """OpenMX's inputs and outputs in a folder: files that name species and atoms, outputs first."""
    found = []
    for path in sorted(folder.glob("*.out")) + sorted(folder.glob("*.dat")):
        if path.is_file() and path.stat().st_size < 2**28:
            text = read_text(path, strict=False).lower()
            if "<atoms.speciesandcoordinates" in text and "<definition.of.atomic.species" in text:
                found.append(path)
    return found


def _output(
    path: pathlib.Path, data: Scfout, notes: list[str], lenient: bool
) -> tuple[str | None, bool]:
    """(version, converged) from the run's text output beside the ``.scfout``; notes are added to.

    OpenMX stops where the band energy (``Uele``) changes by less than ``scf.criterion`` (Hartree).
    """
    names = [path.with_suffix(".out").name, f"{_keyword(data.input_text, 'system.name')}.out"]
    out = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if out is None:
        notes.append(f"no {names[0]} beside {path.name}: whether the run converged is unknown")
        return None, True
    text = read_text(out, strict=False)
    version = re.search(r"OpenMX Ver\. (\S+)", text)
    levels = re.findall(r"^\s*Chemical potential \(Hartree\)\s+(\S+)", text, re.MULTILINE)
    if levels and not abs(_real(levels[-1]) - data.chemical_potential) <= 1e-8:
        reason = (
            f"{out}: is of another run than {path.name} (chemical potential {levels[-1]} instead "
            f"of {data.chemical_potential:.12f} Ha)"
        )
        if not lenient:
            raise DataError(
                f"{reason}, so nothing tells whether that converged; put the right one there, or "
                "add --unconverged"
            )
        notes.append(f"{reason}; ignored")
        return None, True
    history = text.rpartition("SCF history at MD=")[2]
    energies = [_real(e) for e in re.findall(r"^\s*SCF=.*Uele=\s*(\S+)", history, re.MULTILINE)]
    try:
        criterion = float(_keyword(data.input_text, "scf.criterion") or 1e-6)
    except ValueError:
        criterion = 0.0
    converged = len(energies) > 1 and abs(energies[-1] - energies[-2]) < criterion
    if not converged and lenient:
        notes.append(f"the density did not converge ({len(energies)} iterations in {out.name})")
    return version.group(1) if version else None, converged


def _real(text: str) -> float:
    """A number; NaN, which is near to nothing, where the file is damaged or overflowed."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _overlap_only(folder: pathlib.Path) -> DFTRun:
    """S of an OpenMX that was changed to stop after the overlaps: ``output/overlaps_N.h5`` of N
    processes.
    """
    parts = sorted(folder.glob("output/overlaps_*.h5"))
    texts = _inputs(folder)
    if not parts:
        raise DataError(f"{folder}: an OpenMX run without .scfout; {_ASK}")
    if not texts:
        raise DataError(
            f"{folder}: overlaps, but neither .out nor .dat of the run, which name elements and "
            "shells"
        )
    path = texts[0]
    text = read_text(path, strict=False)
    species, labels = _species(text, path), _labels(text, path)
    numbers, shells = _atoms(labels, species, path)
    lattice, positions = _geometry(text, path)
    version = re.search(r"OpenMX Ver\. (\S+)", text)
    info = describe("OpenMX", version.group(1) if version else "unknown")
    structure = Structure(lattice, positions, numbers, shells, None, info, real_path(folder).name)
    pieces = [legacy.read_blocks(part, structure) for part in parts]
    keys = np.concatenate([piece.keys for piece in pieces])
    if len(np.unique(keys, axis=0)) < len(keys):
        raise DataError(
            f"{folder}/output: blocks of one pair are in two files; are they of two runs?"
        )
    s = BlockMatrix(
        keys,
        np.concatenate([piece.shapes for piece in pieces]),
        np.concatenate([piece.values for piece in pieces]),
    ).select(np.arange(len(keys)))
    return DFTRun(structure, None, s, (), (path, *parts))


def _geometry(text: str, where: pathlib.Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lattice and positions (Å) of an input; fractional ones are wrapped into the cell, as OpenMX
    does, others are not.
    """
    units = {"ang": 1.0, "au": BOHR_A}
    cell_unit = (_keyword(text, "atoms.unitvectors.unit") or "Ang").lower()
    unit = (_keyword(text, "atoms.speciesandcoordinates.unit") or "Ang").lower()
    if cell_unit not in units or unit not in (*units, "frac"):
        raise DataError(f"{where}: units '{cell_unit}' and '{unit}'; OpenMX knows Ang, AU and FRAC")
    try:
        lattice = np.array(_block(text, "Atoms.UnitVectors", where), float)[:3, :3]
        rows = _block(text, "Atoms.SpeciesAndCoordinates", where)
        table = np.array([row[2:5] for row in rows], float)
    except (ValueError, IndexError):
        raise DataError(f"{where}: lattice or positions are no tables of numbers") from None
    lattice = lattice * units[cell_unit]
    if unit == "frac":
        return lattice, (table - np.floor(table)) @ lattice
    return lattice, table * units[unit]
