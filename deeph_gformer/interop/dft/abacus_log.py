"""What ABACUS' running log tells: version, shells, atoms, Fermi level, convergence."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ...io.files import read_text
from .stru import BOHR_A

__all__ = ["Log", "read_log"]

_NUMBER = r"([-+]?\d[\d.]*(?:[eE][-+]?\d+)?)"


@dataclasses.dataclass(frozen=True)
class Log:
    """The facts of one log; what it does not tell is None or empty.

    Attributes:
        version: of ABACUS.
        shells: {species: l of its shells}.
        labels: (N,), species of each atom.
        lattice: (3, 3), rows, Å, of six digits.
        positions: (N, 3), Å, wrapped into the cell as ABACUS does.
        fermi_eV: Fermi level.
        electrons: per cell.
        functional: of the pseudopotentials.
        converged: False only where the log says so.
        notes: what a user should know.
    """

    version: str = "unknown"
    shells: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    lattice: NDArray[np.float64] | None = None
    positions: NDArray[np.float64] | None = None
    fermi_eV: float | None = None
    electrons: float | None = None
    functional: str | None = None
    converged: bool = True
    notes: tuple[str, ...] = ()


def read_log(out: pathlib.Path, calculation: str) -> Log:
    """Read the running log of a run.

    Args:
        out: the ``OUT.*`` folder.
        calculation: INPUT's keyword, after which the log is named.
    """
    named = out / f"running_{calculation}.log"
    logs = [named] if named.is_file() else sorted(out.glob("running_*.log"))
    if not logs:
        return Log(
            notes=(f"no running log in {out.name}: Fermi level and convergence are unknown",)
        )
    text = read_text(logs[0], strict=False)
    notes = []
    converged, known = _converged(text)
    if calculation == "scf" and not known:
        notes.append(f"{logs[0].name} does not tell whether the run converged")
    shells = _shells(text)
    lattice, positions, labels = _structure(text, shells)
    fermi = _fermi(text, notes)
    version = re.search(r"ABACUS\s+v?(\d[\w.\-+]*)", text)
    electrons = re.search(
        rf"autoset (?:the )?number of electrons\W*=\s*{_NUMBER}(?!\S)", text, re.IGNORECASE
    ) or re.search(rf"\bnelec\b\W*=\s*{_NUMBER}(?!\S)", text)
    functionals = re.findall(
        r"exchange-correlation functional\s*=\s*(\S.*?)\s*$", text, re.M | re.I
    )
    count = float(electrons.group(1)) if electrons else None
    return Log(
        version.group(1) if version else "unknown",
        shells,
        labels,
        lattice,
        positions,
        fermi,
        int(count) if count is not None and count == int(count) else count,
        "/".join(dict.fromkeys(functionals)) or None,
        converged,
        tuple(notes),
    )


def _converged(text: str) -> tuple[bool, bool]:
    """(converged, whether the log says so)."""
    if re.search(r"convergence has not been achieved|SCF IS NOT CONVERGED", text, re.IGNORECASE):
        return False, True
    said = re.search(
        r"charge density convergence is achieved|SCF IS CONVERGED", text, re.IGNORECASE
    )
    return True, bool(said)


def _shells(text: str) -> dict[str, tuple[int, ...]]:
    """Shells of each species, from the section on the atoms."""
    shells: dict[str, tuple[int, ...]] = {}
    for part in re.split(r"(?=atom label\W*=)", text, flags=re.IGNORECASE)[1:]:
        label = re.match(r"atom label\W*=\s*(\S+)", part, re.IGNORECASE)
        rows = []
        for line in part.splitlines()[1:]:
            found = re.search(
                r"L\s*=\s*(\d+)\s*,\s*number of zeta\W*=\s*(\d+)", line, re.IGNORECASE
            )
            if found:
                rows.append((int(found.group(1)), int(found.group(2))))
            elif rows:
                break
        if label and rows:
            shells[label.group(1)] = tuple(sorted(l for l, count in rows for _ in range(count)))
    return shells


def _label(name: str, known: Iterable[str]) -> str:
    """The species of an atom that the log calls species and number, e.g. ``tauc_Fe1`` + ``3``."""
    plain = re.sub(r"^tau[cd]_", "", name)
    fitting = [k for k in known if plain.startswith(k) and plain[len(k) :].isdigit()]
    return max(fitting, key=len) if fitting else re.sub(r"\d+$", "", plain)


def _structure(
    text: str, known: Iterable[str]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, tuple[str, ...]]:
    """(lattice, positions, labels) of the first structure in the log."""
    unit = re.search(rf"lattice constant \(Bohr\)\s*=\s*{_NUMBER}", text, re.IGNORECASE)
    head = re.search(rf"CARTESIAN COORDINATES \( ?UNIT\s*=\s*{_NUMBER}\s*Bohr", text)
    given = head or unit
    constant = float(given.group(1)) * BOHR_A if given else None
    rows = re.search(
        r"Lattice vectors: \(Cartesian coordinate: in unit of a_?0\)\s*\n"
        + rf"\s*{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*\n" * 3,
        text,
    )
    if constant is None or rows is None:
        return None, None, ()
    lattice = np.array(rows.groups(), float).reshape(3, 3) * constant
    table = re.search(
        r"^\s*(CARTESIAN COORDINATES \( ?UNIT|(?<!K-POINTS )DIRECT "
        r"COORDINATES)[^\n]*\n\s*atom[^\n]*\n"
        r"((?:[ \t]*\S+(?:[ \t]+[-+\d.eE]+)+[ \t]*\n)+)",
        text,
        re.MULTILINE,
    )
    if table is None:
        return lattice, None, ()
    lines = [line.split() for line in table.group(2).splitlines()]
    values = np.array([line[1:4] for line in lines], float)
    labels = tuple(_label(line[0], known) for line in lines)
    cartesian = table.group(1).startswith("CARTESIAN")
    return lattice, values * constant if cartesian else values @ lattice, labels


def _fermi(text: str, notes: list[str]) -> float | None:
    """The last Fermi level (eV); None where there are two, of up and down."""
    if re.search(r"E_?Fermi_(up|dw|down)", text, re.IGNORECASE):
        notes.append("two Fermi levels (up and down): none is written")
        return None
    final = re.findall(rf"EFERMI\s*=\s*{_NUMBER}\s*eV", text)
    steps = re.findall(rf"^\s*E_Fermi\s+{_NUMBER}\s+{_NUMBER}", text, re.MULTILINE)
    if final:
        return float(final[-1])
    return float(steps[-1][1]) if steps else None
