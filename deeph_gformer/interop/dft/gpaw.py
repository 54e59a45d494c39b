"""GPAW in LCAO mode: ``.gpw`` files -> :class:`~deeph_gformer.interop.dft.run.DFTRun`."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, GFormerError, MissingDependencyError, printable
from ...io.files import require_file
from .run import DFTRun

__all__ = ["Gpaw"]


#: Largest change of an eigenvalue in a step at the density of the file, eV. One that GPAW calls
#: converged leaves about a hundredth of it.
_CHANGE = 0.05
#: Largest difference of the file's potential and that of its density, Hartree. Files that GPAW
#: wrote have 1e-15, also loosely converged ones; another version may solve Poisson's equation
#: otherwise.
_POTENTIAL = 1e-6


def _potential(calc: Any) -> list[NDArray[np.float64]]:
    """The effective potential on the grid and the corrections of each atom, Hartree."""
    hamiltonian = calc.hamiltonian
    parts = [hamiltonian.vt_sG, *(m for _, m in sorted(hamiltonian.dH_asp.items()))]
    return [np.array(part, dtype=np.float64) for part in parts]


def _require_same_potential(
    stored: list[NDArray[np.float64]], now: list[NDArray[np.float64]], run: pathlib.Path
) -> None:
    """The potential of the density is the one that stands beside it in the file.

    Raises:
        DataError: it is another one.
    """
    pairs = list(zip(stored, now, strict=False)) if len(stored) == len(now) else []
    if pairs and all(
        a.shape == b.shape and np.abs(a - b).max(initial=0.0) <= _POTENTIAL for a, b in pairs
    ):
        return  # NaN is no match
    raise DataError(
        f"{run}: its atoms and density give another potential than the file tells; it is damaged. "
        "Calculate it again"
    )


def _levels(calc: Any) -> NDArray[np.float64]:
    """Eigenvalues at all irreducible k-points, eV."""
    count = len(calc.wfs.kd.ibzk_kc)
    return np.array([calc.get_eigenvalues(k) for k in range(count)], dtype=np.float64)


def _require_same(stored: NDArray[np.float64], now: NDArray[np.float64], run: pathlib.Path) -> None:
    """H of the density has the eigenvalues that stand beside it in the file.

    Raises:
        DataError: it has others.
    """
    if stored.shape == now.shape and np.abs(stored - now).max(initial=0.0) <= _CHANGE:
        return  # NaN is no match
    raise DataError(
        f"{run}: the Hamiltonian of its density has other eigenvalues than the file tells; it is "
        "damaged, or not of a converged density. Calculate it again"
    )


class Gpaw:
    """Reader of GPAW restart files; a step at fixed density gives the matrices, which such a file
    does not hold.
    """

    name = "gpaw"

    def find(self, path: pathlib.Path) -> list[pathlib.Path]:
        """Restart files at ``path``."""
        if path.is_file():
            return [path] if path.suffix == ".gpw" else []
        return sorted(path.glob("*.gpw"))

    def read(self, run: pathlib.Path, unconverged: bool = False) -> DFTRun:
        """Read one restart file.

        Args:
            run: the ``.gpw``.
            unconverged: read a density that is not converged, too.

        Raises:
            DataError: damaged, or see :func:`deeph_gformer.interop.gpaw.from_gpaw`.
            MissingDependencyError: GPAW is not installed.
        """
        if run.is_dir():
            files = self.find(run)
            if len(files) != 1:
                raise DataError(f"{run}: holds {len(files)} .gpw files; name one")
            run = files[0]
        require_file(run)
        try:
            from gpaw import GPAW
        except ImportError:
            raise MissingDependencyError("gpaw", "gpaw", f"reading {run.name}") from None
        from ..gpaw import from_gpaw

        try:
            calc = GPAW(str(run), txt=None)
            converged = bool(calc.scf.converged)
            if calc.wfs.mode == "lcao" and (converged or unconverged):
                levels, potential = _levels(calc), _potential(calc)
                calc = calc.fixed_density(txt=None)
                if converged:
                    _require_same(levels, _levels(calc), run)
                    _require_same_potential(potential, _potential(calc), run)
        except GFormerError:
            raise
        except Exception as error:  # noqa: BLE001 - GPAW's reader raises anything on damaged files
            raise DataError(
                f"{run}: GPAW cannot read it ({type(error).__name__}: "
                f"{printable(str(error))[:200]})"
            ) from error
        problem, notes = from_gpaw(calc, run.stem, not unconverged), []
        if not converged:
            notes.append("the density did not converge")
            problem.structure.info["converged"] = False
        notes += problem.notes
        return DFTRun(problem.structure, problem.h, problem.s, tuple(notes), (run,))
